import { pairedRows } from "@trefoil/core";
import { holm, mean, type PairedTest } from "../algorithm/index.js";
import { type Arm, allCells, type Cell, cellName, type ExperimentSettings, falsifiers } from "./plan.js";
import type { ResultRow } from "./results.js";
import { type ArmSummary, rowFinder, summarise, tested } from "./summary.js";

export interface Finding {
  statement: string;
  /** `no`: the results say the opposite; `not shown`: they do not tell it from nothing; `open`: there are none. */
  holds: "yes" | "no" | "partly" | "not shown" | "open";
  evidence: string;
}

const interval = (test: PairedTest | undefined): string =>
  test ? `${signed(test.mean)} (95 %: ${test.interval.map(signed).join(" to ")}, ${test.count} seeds)` : "no result";
const signed = (value: number): string => `${value >= 0 ? "+" : ""}${value.toFixed(3)}`;

/** Whether the falsifiers, written down before any run, have struck. */
export function falsifierFindings(rows: readonly ResultRow[], settings: ExperimentSettings): Finding[] {
  const find = rowFinder(rows);
  const gain = (cell: Cell, arm: Arm) =>
    tested(pairedRows(find(cell, arm), find(cell, { kind: "ppo" })).map(([a, b]) => a.gold - b.gold));
  const offset = (sigma: number, prompts: number): Cell => ({ kind: "offset", sigma, prompts, model: "small" });
  const headline: Arm = { kind: "contrast", samples: settings.headline };
  const none = gain(offset(0, settings.prompts), { kind: "contrast", samples: 4 });
  const many = gain(offset(1, settings.prompts), headline);
  const few = gain(offset(1, settings.fewPrompts), headline);
  // Seeds whose contrastive arms are there for every offset.
  const runs = settings.samples.flatMap((samples) => {
    const cells = settings.offsets.map((sigma) => find(offset(sigma, settings.prompts), { kind: "contrast", samples }));
    return cells[0]!.flatMap(({ seed }) => {
      const hashes = cells.flatMap((list) =>
        list.filter((row) => row.seed === seed && row.failure === undefined).map(({ weights }) => weights),
      );
      return hashes.length === cells.length && cells.length > 1 ? [new Set(hashes).size === 1] : [];
    });
  });
  const same = runs.filter((equal) => equal).length;
  const decided = (known: unknown, holds: boolean): Finding["holds"] => (known ? (holds ? "yes" : "no") : "open");
  return [
    {
      statement: falsifiers.noOffset,
      holds: decided(none, none !== undefined && none.interval[0] <= 0),
      evidence: `k = 4 minus PPO: ${interval(none)}`,
    },
    {
      statement: falsifiers.invariance,
      holds: decided(runs.length > 0, same === runs.length),
      evidence: `${same} of ${runs.length} seeds and k have the same weights for offsets ${settings.offsets.join(", ")}`,
    },
    {
      statement: falsifiers.fewPrompts,
      holds: decided(many && few, many !== undefined && few !== undefined && few.mean < many.mean),
      evidence: `few prompts: ${interval(few)}; many: ${interval(many)}`,
    },
  ];
}

/** A claim that each of some cells shows (`wins`), contradicts (`losses`) or leaves undecided. */
function overCells(wins: number, losses: number, cells: number): Finding["holds"] {
  if (cells === 0) return "open";
  if (wins === cells) return "yes";
  if (wins > 0) return "partly";
  return losses > 0 ? "no" : "not shown";
}

/** What the paper says, in our words, and whether it shows here. */
export function claimFindings(rows: readonly ResultRow[], settings: ExperimentSettings): Finding[] {
  const { arms, holmP } = summarise(rows, settings);
  const find = rowFinder(rows);
  const cells = allCells(settings).filter((cell) => cell.model === "small");
  const full = cells.filter((cell) => cell.kind !== "offset" || cell.prompts === settings.prompts);
  const headline: Arm = { kind: "contrast", samples: settings.headline };
  const k = settings.headline;
  const summary = (cell: Cell, arm: string): ArmSummary | undefined =>
    arms.find((each) => each.cell === cellName(cell) && each.arm === arm);
  const headlineOf = (cell: Cell) => summary(cell, `contrast k=${k}`);

  /** @param found differences to `other`, p corrected for the number of cells */
  const beats = (statement: string, other: string, found: readonly { cell: Cell; test: PairedTest; p: number }[]) => {
    const wins = found.filter(({ test, p }) => p < 0.05 && test.mean > 0).length;
    const losses = found.filter(({ test, p }) => p < 0.05 && test.mean < 0).length;
    const holds = overCells(wins, losses, found.length);
    const list = found.map(({ cell, test, p }) => `${cellName(cell)}: ${interval(test)}, Holm p ${p.toPrecision(2)}`);
    return {
      statement,
      holds,
      evidence: `k = ${k} minus ${other} is better in ${wins} and worse in ${losses} of ${found.length} cells. ${list.join("; ")}`,
    };
  };
  const beatsPpo = (statement: string, some: readonly Cell[]): Finding =>
    beats(
      statement,
      "PPO",
      some.flatMap((cell) => {
        const own = headlineOf(cell);
        return own?.difference ? [{ cell, test: own.difference, p: holmP[cellName(cell)] ?? 1 }] : [];
      }),
    );
  // Cell by cell: a mean over good and bad labels would hide where it turns.
  const beatsDpo = (statement: string, some: readonly Cell[]): Finding => {
    const found = some.flatMap((cell) => {
      const test = tested(
        pairedRows(find(cell, headline), find(cell, { kind: "dpo" })).map(([a, b]) => a.gold - b.gold),
      );
      return test ? [{ cell, test }] : [];
    });
    const ps = holm(found.map(({ test }) => test.p));
    return beats(
      statement,
      "DPO (not tuned)",
      found.map((each, i) => ({ ...each, p: ps[i]! })),
    );
  };
  /** Of one difference per seed. */
  const positive = (statement: string, test: PairedTest | undefined, what: string): Finding => {
    const [low, high] = test?.interval ?? [];
    const holds = !test ? "open" : low! > 0 ? "yes" : high! < 0 ? "no" : "not shown";
    return { statement, holds, evidence: `${what}: ${interval(test)}` };
  };
  /** Mean over cells of the difference of two arms, for each seed that has all. */
  const perSeed = (some: readonly Cell[], a: Arm, b: Arm): number[] => {
    const lists = some.map((cell) => pairedRows(find(cell, a), find(cell, b)));
    const seeds = new Set(lists.flat().map(([{ seed }]) => seed));
    return [...seeds].flatMap((seed) => {
      const own = lists.flatMap((list) => list.filter(([row]) => row.seed === seed).map(([x, y]) => x.gold - y.gold));
      return own.length === some.length && own.length > 0 ? [mean(own)] : [];
    });
  };
  /** Slope over cells of the headline's gain, for each seed that has all. */
  const slopes = (some: readonly Cell[], x: (cell: Cell) => number | undefined): number[] => {
    const points = some.flatMap((cell) => {
      const at = x(cell);
      return at === undefined ? [] : [{ at, pairs: pairedRows(find(cell, headline), find(cell, { kind: "ppo" })) }];
    });
    if (points.length < 2) return [];
    const seeds = new Set(points.flatMap(({ pairs }) => pairs.map(([{ seed }]) => seed)));
    const centre = mean(points.map(({ at }) => at));
    const scale = points.reduce((total, { at }) => total + (at - centre) ** 2, 0);
    return [...seeds].flatMap((seed) => {
      const own = points.map(({ at, pairs }) => ({ at, pair: pairs.find(([row]) => row.seed === seed) }));
      if (own.some(({ pair }) => !pair) || scale === 0) return [];
      return [own.reduce((total, { at, pair }) => total + (at - centre) * (pair![0].gold - pair![1].gold), 0) / scale];
    });
  };
  const flips = full.filter((cell) => cell.kind === "flips");
  const offsets = full.filter((cell) => cell.kind === "offset" && cell.sigma > 0);
  const ratios = arms.flatMap((each) =>
    each.measuredVarianceRatio === undefined || each.predictedVarianceRatio === undefined
      ? []
      : [{ measured: each.measuredVarianceRatio, predicted: each.predictedVarianceRatio }],
  );
  const agree = ratios.filter(({ measured, predicted }) => measured < 1 === predicted < 1).length;
  const error = Math.exp(mean(ratios.map(({ measured, predicted }) => Math.abs(Math.log(measured / predicted)))));
  const largest = Math.max(...settings.samples);
  const byK = settings.samples.map(
    (samples) => `k = ${samples}: ${signed(mean(perSeed(full, { kind: "contrast", samples }, { kind: "ppo" })))}`,
  );
  const splits = [...offsets, ...flips].map((cell) => headlineOf(cell)?.split).filter((test) => test !== undefined);
  const lowWins = splits.filter((test) => test.interval[0] > 0).length;
  return [
    beatsPpo("Contrastive rewards beat PPO where rewards carry an offset per prompt", offsets),
    beatsPpo(
      "Contrastive rewards beat PPO with reward models learned from noisy labels",
      flips.filter((cell) => cell.kind === "flips" && cell.rate > 0),
    ),
    beatsPpo(
      "Contrastive rewards beat PPO under the paper's binary noise",
      full.filter((cell) => cell.kind === "binary"),
    ),
    positive(
      "The gain grows with the share of flipped labels",
      tested(slopes(flips, (cell) => (cell.kind === "flips" ? cell.rate : undefined))),
      "slope of the gain on η",
    ),
    positive(
      "The gain grows with ρ (trend over all cells)",
      tested(
        slopes(full, (cell) => {
          const rho = headlineOf(cell)?.rho;
          return rho === undefined ? undefined : Math.log(Math.max(rho, 0.01));
        }),
      ),
      "slope of the gain on log ρ",
    ),
    positive(
      "More offline samples are better",
      tested(
        perSeed(full, { kind: "contrast", samples: largest }, { kind: "contrast", samples: settings.samples[0]! }),
      ),
      `minus PPO, mean over cells: ${byK.join(", ")}; k = ${largest} minus k = ${settings.samples[0]}`,
    ),
    {
      statement: "Contrast changes the variance of policy gradients by (1 + 1/k) / (1 + ρ)",
      holds:
        ratios.length === 0 ? "open" : agree === ratios.length && error < 1.25 ? "yes" : agree > 0 ? "partly" : "no",
      evidence:
        ratios.length === 0
          ? "no result"
          : `measured and predicted ratio are on the same side of 1 in ${agree} of ${ratios.length} cells and k, and apart by a factor ${error.toFixed(2)} on average`,
    },
    {
      statement: "Prompts with low offline rewards gain more",
      holds: overCells(lowWins, splits.filter((test) => test.interval[1] < 0).length, splits.length),
      evidence: `low minus high half is above 0 in ${lowWins} of ${splits.length} cells: ${splits.map(interval).join("; ")}`,
    },
    beatsDpo("Contrastive rewards beat DPO on the same preferences", flips),
    positive(
      "Contrast with k = 4 beats RLOO at equal scored samples",
      tested(perSeed(full, { kind: "contrast", samples: 4 }, { kind: "leave-one-out", budget: true })),
      "k = 4 minus RLOO, mean over cells",
    ),
  ];
}
