import type { SeedSizes } from "../stages/index.js";

/**
 * `paper`: branches train everything on their domain alone, routers start random, 23 % of the compute goes to the mixture (arXiv
 * 2403.07816). `levers`: branches train feed-forward layers alone and replay a tenth of the other domains, routers start from ridge
 * regression, most of the compute goes to the mixture.
 */
export const regimes = ["paper", "levers"] as const;
export type Regime = (typeof regimes)[number];

/** Share of the FLOPs after the seed that finetuning the mixture takes. */
export const finetuneShare: Record<Regime, number> = { paper: 0.23, levers: 0.65 };

const variants = ["top-2", "sample top-1", "no balancing", "frozen experts", "blending", "splitting"] as const;
export type Variant = (typeof variants)[number];

export const ensembles = ["top-1", "top-2", "Bayes"] as const;

/** What rivals have in common with Branch-Train-MiX. */
export const matchings = ["FLOPs", "tokens", "time"] as const;
export type Matching = (typeof matchings)[number];

/** What one line of the results stands for. */
export type Arm =
  | { kind: "seed" }
  | { kind: "expert"; regime: Regime; domain: string }
  | { kind: "average"; regime: Regime }
  | { kind: "ensemble"; regime: Regime; choice: (typeof ensembles)[number] }
  /** @param share of the compute, where it is not the regime's */
  | { kind: "mixture"; regime: Regime; variant: Variant; share?: number }
  /** Dense continued training and sparse upcycling. FLOPs are the same for both regimes; `regime` is then left out. */
  | { kind: "dense" | "upcycled"; match: Matching; regime?: Regime };

export function armName(arm: Arm): string {
  switch (arm.kind) {
    case "seed":
      return "seed";
    case "expert":
      return `expert ${arm.domain}, ${arm.regime}`;
    case "average":
      return `average, ${arm.regime}`;
    case "ensemble":
      return `BTM ${arm.choice}, ${arm.regime}`;
    case "mixture":
      return `BTX ${arm.variant}, ${arm.regime}${arm.share === undefined ? "" : `, split ${arm.share}`}`;
    default:
      return `${arm.kind}, same ${arm.match}${arm.regime ? ` as ${arm.regime}` : ""}`;
  }
}

export interface ExperimentSettings {
  /** Seeds 1 to this: initial weights, order of the data, routers. All arms of a seed share the seed model. */
  seeds: number;
  sizes: SeedSizes;
  batch: number;
  sequence: number;
  seedSteps: number;
  /** Compute after the seed, in steps of the dense model: every arm with its FLOPs matched has this. */
  steps: number;
  seedLearningRate: number;
  learningRate: number;
  /** Regimes in which all variants are trained, and rivals matched by tokens and time; the others have the main arms alone. */
  full: readonly Regime[];
  /** Shares of the compute tried for the mixture, beside the regime's. */
  shares: readonly number[];
  /** Held-out windows of each domain, and of windows that switch between them. */
  windows: number;
  problems: number;
  maxBytes: number;
}

export const domainNames = ["code", "prose", "arithmetic"] as const;
export const heldOutShare = 0.1;

/** Arms of one seed, in an order in which what they rest on comes first. */
export function armsOf({ full, shares }: ExperimentSettings): Arm[] {
  const ofRegime = (regime: Regime): Arm[] => [
    ...domainNames.map((domain): Arm => ({ kind: "expert", regime, domain })),
    { kind: "average", regime },
    ...ensembles.map((choice): Arm => ({ kind: "ensemble", regime, choice })),
    ...variants
      .filter((variant) => variant === "top-2" || full.includes(regime))
      .map((variant): Arm => ({ kind: "mixture", regime, variant })),
  ];
  const rivals = (["dense", "upcycled"] as const).flatMap((kind): Arm[] => [
    { kind, match: "FLOPs" },
    ...full.flatMap((regime) => (["tokens", "time"] as const).map((match): Arm => ({ kind, match, regime }))),
  ]);
  const sweep = shares.map((share): Arm => ({ kind: "mixture", regime: "levers", variant: "top-2", share }));
  return [{ kind: "seed" }, ...regimes.flatMap(ofRegime), ...rivals, ...sweep];
}

/** What is expected, written before any run. Differences are of mean bits per byte; below 0 the first is better. */
export const expectations = {
  dense: "Branch-Train-MiX is better than dense continued training at equal FLOPs",
  upcycled: "Branch-Train-MiX is better than sparse upcycling at equal FLOPs",
  ensemble: "Branch-Train-MiX is better than Branch-Train-Merge (Bayes) on windows that switch domain",
  single: "Branch-Train-Merge (Bayes) is better than Branch-Train-MiX on windows of one domain",
  average: "Branch-Train-MiX is better than the plain average of its experts",
  levers:
    "Feed-forward branches, replay, a ridge router and more finetuning are better than the paper's regime at equal FLOPs",
  frozen: "Frozen experts cost no more than 0.02 bits per byte",
  blending: "Blending, which destroys the experts' domains, is worse than whole experts",
  forgetting: "The code expert alone forgets prose, against the seed",
} as const;

/** Bits per byte that count as none. */
export const negligible = 0.02;
