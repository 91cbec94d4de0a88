/** What the experiment varies. */
export type Cell =
  /** Reward = true quality + σ z(prompt), z a normal number that nothing can learn. */
  | { kind: "offset"; sigma: number; prompts: number }
  /** A reward model learned from preferences of which a share is flipped. */
  | { kind: "flips"; rate: number };

export const cellName = (cell: Cell): string =>
  cell.kind === "offset" ? `offset ${cell.sigma}, ${cell.prompts} prompts` : `flips ${cell.rate}`;

/** What is trained in a cell. */
export type Arm = { kind: "sft" | "ppo" | "dpo" | "leave-one-out" } | { kind: "contrast"; samples: number };

export const armName = (arm: Arm): string => {
  const names = { sft: "SFT", ppo: "PPO", dpo: "DPO", "leave-one-out": "RLOO" };
  return arm.kind === "contrast" ? `contrast k=${arm.samples}` : names[arm.kind];
};

export interface ExperimentSettings {
  /** Seeds 1 to this; every arm of a seed has the same SFT policy, preferences, prompts and random numbers. */
  seeds: number;
  offsets: readonly number[];
  flips: readonly number[];
  /** k of the contrastive arms. */
  samples: readonly number[];
  prompts: number;
  /** Prompts of the cell in which a critic can memorise the offsets. */
  fewPrompts: number;
  heldOutPrompts: number;
  iterations: number;
  sftSteps: number;
  rewardSteps: number;
  /** The k whose gain over PPO is the headline. */
  headline: number;
}

export function cellsOf({ offsets, flips, prompts, fewPrompts }: ExperimentSettings): Cell[] {
  return [
    ...offsets.map((sigma): Cell => ({ kind: "offset", sigma, prompts })),
    { kind: "offset", sigma: 1, prompts: fewPrompts },
    ...flips.map((rate): Cell => ({ kind: "flips", rate })),
  ];
}

export function armsOf(cell: Cell, { samples, headline }: ExperimentSettings): Arm[] {
  // Offsets cancel in contrastive arms: all k once, elsewhere those that the falsifiers need.
  const ks = cell.kind === "offset" && cell.sigma !== 0 ? samples.filter((k) => k === headline) : samples;
  const contrast = ks.map((k): Arm => ({ kind: "contrast", samples: k }));
  const dpo: Arm[] = cell.kind === "flips" ? [{ kind: "dpo" }] : [];
  return [{ kind: "sft" }, { kind: "ppo" }, ...contrast, { kind: "leave-one-out" }, ...dpo];
}

/** What would show the account of contrast given here to be wrong; written before any run. */
export const falsifiers = {
  noOffset: "Without offsets and label noise, contrast with k = 4 must not beat PPO: there is nothing to remove.",
  invariance: "Contrast must give the same weights, bit for bit, for every size of the offsets.",
  fewPrompts: "With few prompts, which the critic can memorise, the gain over PPO must be smaller than with many.",
} as const;
