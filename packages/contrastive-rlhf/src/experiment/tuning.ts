import { existsSync } from "node:fs";
import { appendFile, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { defined, keepSettings, type StageContext } from "@trefoil/core";
import { mean } from "../algorithm/index.js";
import { type Cell, cellName, type ExperimentSettings, mayChange, type TunedSettings } from "./plan.js";
import { SeedStages } from "./seed-stages.js";

/** Seeds that the experiment does not use. */
const tuningSeeds = [1001, 1002, 1003];
const grid: readonly TunedSettings[] = [5e-4, 1e-3, 2e-3, 4e-3].flatMap((learningRate) =>
  [0.02, 0.05, 0.15, 0.4].map((klCoefficient) => ({ learningRate, klCoefficient })),
);

/** Where plain PPO has nothing to fear, an offset it must learn, and label noise. */
const cellsToTune = (prompts: number): Cell[] => [
  { kind: "offset", sigma: 0, prompts, model: "small" },
  { kind: "offset", sigma: 1, prompts, model: "small" },
  { kind: "flips", rate: 0.2, model: "small" },
];

/** Plain PPO of one seed, cell and point of the grid: a line of `tuning.jsonl`. */
interface TuningRow extends TunedSettings {
  cell: string;
  seed: number;
  gold: number;
}

export interface TuningPoint extends TunedSettings {
  /** Mean true quality over cells and seeds. */
  gold: number;
}

/** Found by `tunePpo` before any other run (results/tuning.jsonl), and kept for all arms. */
export const tunedSettings: TunedSettings = { learningRate: 2e-3, klCoefficient: 0.05 };

/**
 * Plain PPO at every point of the grid on seeds of its own; the best by mean true quality is what all arms of the experiment use.
 * Returns the points, best first; undefined when stopped.
 * @throws ResumeError where the folder holds results of other settings
 */
export async function tunePpo(
  directory: string,
  settings: ExperimentSettings,
  { signal, progress }: StageContext,
): Promise<TuningPoint[] | undefined> {
  await keepSettings(directory, settings, mayChange);
  const path = join(directory, "tuning.jsonl");
  const rows: TuningRow[] = existsSync(path)
    ? (await readFile(path, "utf8")).split("\n").flatMap((line) => (line === "" ? [] : [JSON.parse(line) as TuningRow]))
    : [];
  const cells = cellsToTune(settings.prompts);
  const same = (row: TuningRow, point: TunedSettings) =>
    row.learningRate === point.learningRate && row.klCoefficient === point.klCoefficient;
  const stage = progress?.stage("tuning", {
    total: tuningSeeds.length * cells.length * grid.length,
    done: rows.length,
    unit: "runs",
  });
  for (const seed of tuningSeeds) {
    const folder = join(directory, `tuning-${seed}`);
    const stages = new SeedStages(folder, seed, "small", { ...settings, tuned: tunedSettings }, defined({ signal }));
    for (const cell of cells) {
      const missing = grid.filter(
        (point) => !rows.some((row) => row.seed === seed && row.cell === cellName(cell) && same(row, point)),
      );
      if (missing.length === 0) continue;
      using prepared = await stages.prepare(cell);
      for (const tuned of missing) {
        const result = signal?.aborted ? undefined : await prepared.run({ kind: "ppo" }, tuned);
        if (!result) {
          stage?.fail("stopped");
          return undefined;
        }
        const row: TuningRow = { cell: cellName(cell), seed, ...tuned, gold: result.gold };
        await appendFile(path, `${JSON.stringify(row)}\n`);
        rows.push(row);
        stage?.update(rows.length);
      }
    }
    await rm(folder, { recursive: true, force: true });
  }
  stage?.succeed();
  return grid
    .map((point) => ({ ...point, gold: mean(rows.filter((row) => same(row, point)).map(({ gold }) => gold)) }))
    .sort((a, b) => b.gold - a.gold);
}
