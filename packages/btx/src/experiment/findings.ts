import {
  type Arm,
  type ExperimentSettings,
  expectations,
  matchings,
  negligible,
  type Regime,
  regimes,
} from "./plan.js";
import type { ResultRow } from "./results.js";
import { differences, type Score, tested } from "./summary.js";

export interface Finding {
  statement: string;
  /** `not shown`: the interval includes what it would have to exclude. */
  holds: "yes" | "no" | "not shown";
  evidence: string;
}

const signed = (value: number): string => `${value >= 0 ? "+" : ""}${value.toFixed(3)}`;

/** The expectations, each with a 95 % interval of paired differences over seeds. */
export function findings(rows: readonly ResultRow[], settings: ExperimentSettings): Finding[] {
  const mean: Score = (row) => row.mean;
  const switching: Score = (row) => row.switching;
  /** Whether a minus b lies below `bound`. */
  const below = (statement: string, a: Arm, b: Arm, score: Score, bound = 0): Finding => {
    const test = tested(differences(rows, a, b, score));
    if (!test) return { statement, holds: "not shown", evidence: "fewer than two seeds" };
    const [low, high] = test.interval;
    const holds = high < bound ? "yes" : low > bound ? "no" : "not shown";
    const evidence = `${signed(test.mean)} (95 %: ${signed(low)} to ${signed(high)}, ${test.count} seeds)`;
    return { statement, holds, evidence };
  };
  const mixture = (regime: Regime, variant: "top-2" | "frozen experts" | "blending" = "top-2"): Arm => ({
    kind: "mixture",
    regime,
    variant,
  });
  const bayes = (regime: Regime): Arm => ({ kind: "ensemble", regime, choice: "Bayes" });
  const inBoth = regimes.flatMap((regime) => {
    const named = (statement: string) => `${statement} (${regime})`;
    const rivals = (["dense", "upcycled"] as const).flatMap((kind) =>
      matchings
        .filter((match) => match === "FLOPs" || settings.full.includes(regime))
        .map((match) => {
          const rival: Arm = { kind, match, ...(match !== "FLOPs" && { regime }) };
          return below(named(expectations[kind].replace("FLOPs", match)), mixture(regime), rival, mean);
        }),
    );
    const variants = settings.full.includes(regime)
      ? [
          below(named(expectations.frozen), mixture(regime, "frozen experts"), mixture(regime), mean, negligible),
          below(named(expectations.blending), mixture(regime), mixture(regime, "blending"), mean),
        ]
      : [];
    return [
      ...rivals,
      below(named(expectations.ensemble), mixture(regime), bayes(regime), switching),
      below(named(expectations.single), bayes(regime), mixture(regime), mean),
      below(named(expectations.average), mixture(regime), { kind: "average", regime }, mean),
      ...variants,
      below(
        named(expectations.forgetting),
        { kind: "seed" },
        { kind: "expert", regime, domain: "code" },
        (row) => row.bitsPerByte.prose!,
      ),
    ];
  });
  return [...inBoth, below(expectations.levers, mixture("levers"), mixture("paper"), mean)];
}
