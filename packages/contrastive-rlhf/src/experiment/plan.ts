/** How big the policy, reward model and critic of a cell are. */
export type ModelSize = "small" | "showcase";

/** What the experiment varies. */
export type Cell = { model: ModelSize } & (
  | /** Reward = true quality + σ z(prompt), z a normal number that nothing can learn. */
  { kind: "offset"; sigma: number; prompts: number }
  /** A reward model learned from preferences of which a share is flipped. */
  | { kind: "flips"; rate: number }
  /** The paper's model of noise: a true quality of 0 or 1, flipped at rates of each prompt's own, uniform in [0, 2 level]. */
  | { kind: "binary"; level: number }
);

/** What rows of results call a cell. */
export function cellName(cell: Cell): string {
  const size = cell.model === "showcase" ? ", 1M parameters" : "";
  if (cell.kind === "offset") return `offset ${cell.sigma}, ${cell.prompts} prompts${size}`;
  return (cell.kind === "flips" ? `flips ${cell.rate}` : `binary noise ${cell.level}`) + size;
}

/** What is trained in a cell. */
export type Arm =
  | { kind: "sft" | "ppo" | "dpo" }
  | { kind: "contrast"; samples: number }
  /** With `budget`, twice the rollouts, so that rewards are asked about as often as by contrast with k = 4. */
  | { kind: "leave-one-out"; budget: boolean };

/** What rows of results call an arm. */
export function armName(arm: Arm): string {
  if (arm.kind === "contrast") return `contrast k=${arm.samples}`;
  if (arm.kind === "leave-one-out") return arm.budget ? "RLOO, budget of k=4" : "RLOO";
  return arm.kind.toUpperCase();
}

/** What PPO is tuned over. */
export interface TunedSettings {
  /** Of the policy; the critic's is twice that. */
  learningRate: number;
  /** β of the KL penalty. */
  klCoefficient: number;
}

export interface ExperimentSettings {
  /** Seeds 1 to this; every arm of a seed has the same SFT policy, preferences, prompts and random numbers. */
  seeds: number;
  offsets: readonly number[];
  flips: readonly number[];
  /** Levels of the binary noise. */
  binary: readonly number[];
  /** k of the contrastive arms. */
  samples: readonly number[];
  /** Seeds of the cell with a policy of about a million parameters; 0: none. */
  showcaseSeeds: number;
  prompts: number;
  /** Prompts of the cell in which a critic can memorise the offsets. */
  fewPrompts: number;
  heldOutPrompts: number;
  iterations: number;
  sftSteps: number;
  rewardSteps: number;
  dpoSteps: number;
  /** The k whose gain over PPO is the headline. */
  headline: number;
  /** Of PPO and all that is compared with it. */
  tuned: TunedSettings;
}

/** Rows are named by the values of these: a later run in the same folder may change them. */
export const mayChange = ["seeds", "showcaseSeeds", "offsets", "flips", "binary", "samples"] as const;

/** Share of flipped labels in the showcase cell, which also has an offset of none. */
const showcaseFlips = 0.2;

/** Cells of one seed and model size. */
export function cellsOf(settings: ExperimentSettings, model: ModelSize): Cell[] {
  if (model === "showcase") return [{ kind: "flips", rate: showcaseFlips, model }];
  const { offsets, flips, binary, prompts, fewPrompts } = settings;
  return [
    ...offsets.map((sigma): Cell => ({ kind: "offset", sigma, prompts, model })),
    { kind: "offset", sigma: 1, prompts: fewPrompts, model },
    ...flips.map((rate): Cell => ({ kind: "flips", rate, model })),
    ...binary.map((level): Cell => ({ kind: "binary", level, model })),
  ];
}

/** Cells of both model sizes, in the order of the report. */
export const allCells = (settings: ExperimentSettings): Cell[] => [
  ...cellsOf(settings, "small"),
  ...(settings.showcaseSeeds > 0 ? cellsOf(settings, "showcase") : []),
];

/** Arms of a cell, in the order they are trained. */
export function armsOf(cell: Cell, { samples, headline, fewPrompts }: ExperimentSettings): Arm[] {
  const contrast = (ks: readonly number[]) => ks.map((k): Arm => ({ kind: "contrast", samples: k }));
  if (cell.kind === "offset" && cell.prompts === fewPrompts)
    return [{ kind: "sft" }, { kind: "ppo" }, ...contrast([headline])];
  const rloo = { kind: "leave-one-out", budget: false } as const;
  if (cell.model === "showcase")
    return [{ kind: "sft" }, { kind: "dpo" }, { kind: "ppo" }, ...contrast([headline]), rloo];
  return [{ kind: "sft" }, { kind: "dpo" }, { kind: "ppo" }, ...contrast(samples), rloo, { ...rloo, budget: true }];
}

/** What would show the account of contrast given here to be wrong; written before any run. */
export const falsifiers = {
  noOffset: "Without offsets and label noise, contrast with k = 4 must not beat PPO: there is nothing to remove.",
  invariance: "Contrast must give the same weights, bit for bit, for every size of the offsets.",
  fewPrompts: "With few prompts, which the critic can memorise, the gain over PPO must be smaller than with many.",
} as const;
