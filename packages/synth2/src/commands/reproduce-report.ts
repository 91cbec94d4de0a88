import { markdownTable, type Section, type TableSection, terminalTable } from "@trefoil/core";
import { captionSetRow, captionSetTable } from "../captions/index.js";
import {
  type ArmSummary,
  arms,
  type ExperimentSettings,
  type Finding,
  type ResultRow,
  type SeenScenes,
  STAGES,
  type TestName,
  tests,
  totalSeconds,
  ways,
} from "../experiment/index.js";
import { pngOf } from "../quickstart/pictures.js";
import { ATTRIBUTES, WorldDataset } from "../world/index.js";

export interface ReproduceResult {
  rows: readonly ResultRow[];
  arms: readonly ArmSummary[];
  findings: readonly Finding[];
  settings: ExperimentSettings;
  /** What of the tests was seen in training. */
  seen: SeenScenes;
  completed: boolean;
}

const average = (values: readonly number[]): number | null => {
  const finite = values.filter(Number.isFinite);
  return finite.length > 0 ? finite.reduce((sum, value) => sum + value, 0) / finite.length : null;
};

const findingTable = ({ findings }: ReproduceResult): TableSection => ({
  kind: "table",
  title: "Expectations, stated before the run",
  caption:
    "Differences of CIDEr × 100 or shares, paired by seed. Not shown: the 95 % interval includes the bound. Where the generator is not faithful, the lines about GenPair say what unfaithful pairs do.",
  columns: ["statement", "holds", "evidence"].map((label) => ({ label })),
  rows: findings.map(({ statement, holds, evidence }) => [statement, holds, evidence]),
});

function faithfulnessTable({ rows }: ReproduceResult): TableSection {
  const measured = rows.flatMap(({ faithfulness }) => (faithfulness ? [faithfulness] : []));
  const line = (name: string, test: TestName, key: "original" | "reconstructed" | "generated") => [
    `${test}, ${name}`,
    average(measured.map((each) => each[test][key]!.exact)),
    ...ATTRIBUTES.map((attribute) => average(measured.map((each) => each[test][key]!.accuracy[attribute]))),
  ];
  return {
    kind: "table",
    title: "Faithfulness: what a judge without learned parts reads in pictures, against their captions",
    caption: "Means over seeds. Everything: share of pictures of which all that the caption says is true.",
    columns: ["pictures", "everything", ...ATTRIBUTES].map((label) => ({ label })),
    rows: tests.flatMap((test) => [
      line("true", test, "original"),
      line("true, behind the image tokenizer", test, "reconstructed"),
      line("generated", test, "generated"),
    ]),
  };
}

function captionsTable({ rows }: ReproduceResult): TableSection {
  const reports = rows.flatMap(({ captions }) => (captions ? [captions] : []));
  const line = (name: string, set: "written" | "human", key: "balanced" | "skewed") => {
    const values = reports.map((report) => captionSetRow(report[key], set).map((value) => value ?? Number.NaN));
    return [name, ...captionSetTable.columns.slice(1).map((_, i) => average(values.map((row) => row[i]!)))];
  };
  return {
    kind: "table",
    ...captionSetTable,
    rows: [
      line("human", "human", "balanced"),
      line("balanced", "written", "balanced"),
      line("skewed", "written", "skewed"),
    ],
  };
}

/** "48 % of test, 34 % of balanced, 0 % of novel" */
const seenText = (seen: SeenScenes, among: "pairs" | "truth"): string =>
  tests.map((test) => `${(100 * seen[test][among]).toFixed(0)} % of ${test}`).join(", ");

const armTable = ({ arms: summaries, seen }: ReproduceResult): TableSection => ({
  kind: "table",
  title: "CIDEr of captions of test pictures",
  caption: `CIDEr × 100, means over seeds; difference to human pairs only with its 95 % interval of paired seeds. test: skewed as the pairs; balanced: all looks alike; novel: looks that no pair has. True: share of captions of which everything is true. Nats per token of human captions beside their own and beside another picture. Drawn apart, but not all unseen: ${seenText(seen, "pairs")} are scenes that stand among the human pairs too; ${seenText(seen, "truth")} among the true pairs.`,
  columns: [
    { label: "arm" },
    { label: "seeds" },
    ...tests.flatMap((test) => [{ label: test, best: "highest" as const }, { label: `${test}: minus human` }]),
    ...tests.map((test) => ({ label: `true, ${test}` })),
    ...["own", "another", "CPU seconds"].map((label) => ({ label })),
  ],
  rows: summaries.map((arm) => [
    arm.arm,
    arm.seeds,
    ...tests.flatMap((test) => {
      const against = arm.againstHuman?.[test];
      const interval = against && `${against.interval[0].toFixed(1)} to ${against.interval[1].toFixed(1)}`;
      return [arm.cider[test], against ? `${against.mean.toFixed(1)} (${interval})` : null];
    }),
    ...tests.map((test) => arm.exact[test]),
    arm.own,
    arm.other,
    arm.seconds,
  ]),
});

function efficiencyTable({ rows }: ReproduceResult): TableSection {
  const measured = rows.flatMap(({ efficiency }) => (efficiency ? [efficiency] : []));
  return {
    kind: "table",
    title: "What an update costs",
    caption:
      "CPU milliseconds of an update on synthetic pictures alone, means over seeds, the four ways in turns; resident memory at the peak of a process that does this alone; what a cache holds of a picture.",
    columns: [
      { label: "generation" },
      { label: "path" },
      ...STAGES.map((label) => ({ label, unit: "ms" })),
      { label: "all", unit: "ms", best: "lowest" as const },
      { label: "peak", unit: "MB" },
      { label: "cached", unit: "bytes" },
    ],
    rows: ways.map(({ generation, path }) => {
      const cells = measured.flatMap((each) =>
        each.filter((cell) => cell.generation === generation && cell.path === path),
      );
      const of = (value: (cell: (typeof cells)[number]) => number) => average(cells.map(value));
      return [
        generation,
        path,
        ...STAGES.map((stage) => of(({ seconds }) => 1000 * seconds[stage])),
        of((cell) => 1000 * totalSeconds(cell)),
        of(({ peakBytes }) => peakBytes / 1e6),
        cells[0]?.cachedBytes ?? null,
      ];
    }),
  };
}

/** The first test pictures of seed 1 with each arm's caption. */
async function captionsSection({ rows, settings }: ReproduceResult): Promise<Section[]> {
  const written = rows.filter(({ seed, written: captions }) => seed === 1 && captions);
  const count = Math.min(...written.map((row) => row.written!.length));
  if (written.length === 0 || count === 0) return [];
  const size = settings.pipeline.tokenizer.model.imageSize;
  const data = new WorldDataset({ world: settings.pipeline.world, split: "test", length: count, size, seed: 1 });
  const images = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const { image, captions } = await data.get(i);
      const said = written.map(({ arm, written: own }) => `${arm}: ${own![i]}`);
      return {
        png: await pngOf({ pixels: image, width: size, height: size }),
        alt: captions[0]!,
        label: [`people: ${captions[0]}`, ...said].join("; "),
      };
    }),
  );
  return [{ kind: "images", title: "Captions of test pictures, seed 1", images, size: 144 }];
}

export async function reproduceSections(result: ReproduceResult): Promise<Section[]> {
  return [
    findingTable(result),
    faithfulnessTable(result),
    armTable(result),
    {
      kind: "bars",
      width: "full",
      title: "CIDEr by arm",
      y: { label: "CIDEr × 100" },
      categories: [...tests],
      series: result.arms.map(({ arm, cider }) => ({ name: arm, values: tests.map((test) => cider[test]) })),
    },
    efficiencyTable(result),
    {
      kind: "bars",
      title: "What an update costs",
      y: { label: "CPU time of an update", unit: "ms" },
      categories: ways.map(({ generation, path }) => `${path}, ${generation}`),
      series: STAGES.map((stage, i) => ({
        name: stage,
        values: efficiencyTable(result).rows.map((row) => row[2 + i] as number | null),
      })),
    },
    captionsTable(result),
    ...(await captionsSection(result)),
    {
      kind: "text",
      title: "Every seed",
      text: seedLines(result).join("\n"),
      collapsed: true,
    },
    { kind: "text", title: "Settings", text: JSON.stringify(result.settings, null, 2), collapsed: true },
  ];
}

const seedLines = ({ rows }: ReproduceResult): string[] =>
  arms.flatMap(({ name }) =>
    rows
      .filter(({ arm, scores }) => arm === name && scores)
      .map(({ seed, scores }) => {
        const ciders = tests.map((test) => `${test} ${(100 * scores![test].cider).toFixed(2)}`);
        return `${name}, seed ${seed}: ${ciders.join(", ")}`;
      }),
  );

const tables = (result: ReproduceResult): TableSection[] => [
  faithfulnessTable(result),
  armTable(result),
  efficiencyTable(result),
  captionsTable(result),
  findingTable(result),
];

/** For the terminal. */
export const resultsTables = (result: ReproduceResult): string =>
  tables(result)
    .map((table) => terminalTable(table))
    .join("\n");

export function markdownSummary(result: ReproduceResult): string {
  const { completed, settings } = result;
  const done = completed ? `All arms of ${settings.seeds} seeds.` : "Not complete.";
  return `${done}\n\n${tables(result).map(markdownTable).join("\n\n")}\n`;
}
