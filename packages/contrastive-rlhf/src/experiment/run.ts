import { join } from "node:path";
import { type ExperimentOptions, type RunUnit, runUnits } from "@trefoil/core";
import { armName, armsOf, cellName, cellsOf, type ExperimentSettings, type ModelSize, mayChange } from "./plan.js";
import { type ResultRow, resultKey } from "./results.js";
import { SeedStages } from "./seed-stages.js";

/** All cells of one seed: what one process works on at a time. */
interface Unit {
  seed: number;
  model: ModelSize;
}

/** The first showcase comes after two small seeds: an experiment that is stopped early has some of everything. */
function unitsOf({ seeds, showcaseSeeds }: ExperimentSettings): Unit[] {
  const units = (count: number, model: ModelSize) =>
    Array.from({ length: count }, (_, i): Unit => ({ seed: i + 1, model }));
  const [small, showcase] = [units(seeds, "small"), units(showcaseSeeds, "showcase")];
  return [...small.slice(0, 2), ...showcase.slice(0, 1), ...small.slice(2), ...showcase.slice(1)];
}

/** Trains the arms of a unit that have no result. */
export const runUnit: RunUnit<ExperimentSettings, Unit, ResultRow> = async (request, signal, emit) => {
  const { directory, settings, known } = request;
  const { seed, model } = request.unit;
  const context = signal ? { signal } : {};
  const folder = join(directory, model === "small" ? `seed-${seed}` : `seed-${seed}-${model}`);
  const stages = new SeedStages(folder, seed, model, settings, context);
  for (const cell of cellsOf(settings, model)) {
    const missing = armsOf(cell, settings).filter(
      (arm) => !known.includes(resultKey({ cell: cellName(cell), arm: armName(arm), seed })),
    );
    if (missing.length === 0) continue;
    if (signal?.aborted) return false;
    using prepared = await stages.prepare(cell);
    for (const arm of missing) {
      const row = signal?.aborted ? undefined : await prepared.run(arm);
      if (!row) return false;
      await emit(row);
    }
  }
  return true;
};

/**
 * Runs every arm of every cell and seed that has no result yet. Returns whether all were run.
 * @throws ResumeError where the folder holds an experiment of other settings
 */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  options: ExperimentOptions,
): Promise<boolean> {
  return await runUnits(options, {
    ...{ directory, settings },
    mayChange,
    units: unitsOf(settings),
    keysOf: ({ seed, model }) =>
      cellsOf(settings, model).flatMap((cell) =>
        armsOf(cell, settings).map((arm) => resultKey({ cell: cellName(cell), arm: armName(arm), seed })),
      ),
    keyOf: resultKey,
    run: runUnit,
    worker: new URL("./worker.js", import.meta.url),
    describe: ({ seed, cell, arm, gold, failure }) =>
      `seed ${seed}, ${cell}, ${arm}: true quality ${gold.toFixed(3)}${failure ? ` (${failure})` : ""}`,
  });
}
