import { type ChildProcess, fork } from "node:child_process";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import type { StageContext } from "../stages/index.js";
import { armName, armsOf, cellName, cellsOf, type ExperimentSettings, type ModelSize } from "./plan.js";
import { appendResult, type ResultRow, readResults, resultKey } from "./results.js";
import { SeedStages } from "./seed-stages.js";

/** All cells of one seed: what one process works on at a time. */
interface Unit {
  seed: number;
  model: ModelSize;
}

/** What a worker process is asked, and what it answers. */
export interface UnitRequest {
  directory: string;
  settings: ExperimentSettings;
  unit: Unit;
  /** Keys of results that are there. */
  known: readonly string[];
}
export type UnitAnswer = { row: ResultRow } | { finished: true } | { error: string };

/** The first showcase comes after two small seeds: an experiment that is stopped early has some of everything. */
function unitsOf({ seeds, showcaseSeeds }: ExperimentSettings): Unit[] {
  const units = (count: number, model: ModelSize) =>
    Array.from({ length: count }, (_, i): Unit => ({ seed: i + 1, model }));
  const [small, showcase] = [units(seeds, "small"), units(showcaseSeeds, "showcase")];
  return [...small.slice(0, 2), ...showcase.slice(0, 1), ...small.slice(2), ...showcase.slice(1)];
}

/** Trains the arms of a unit that have no result. Returns whether all were trained. */
export async function runUnit(
  { directory, settings, unit: { seed, model }, known }: UnitRequest,
  context: StageContext,
  emit: (row: ResultRow) => Promise<void> | void,
): Promise<boolean> {
  const folder = join(directory, model === "small" ? `seed-${seed}` : `seed-${seed}-${model}`);
  const stages = new SeedStages(folder, seed, model, settings, context);
  for (const cell of cellsOf(settings, model)) {
    const missing = armsOf(cell, settings).filter(
      (arm) => !known.includes(resultKey({ cell: cellName(cell), arm: armName(arm), seed })),
    );
    if (missing.length === 0) continue;
    if (context.signal?.aborted) return false;
    using prepared = await stages.prepare(cell);
    for (const arm of missing) {
      const row = context.signal?.aborted ? undefined : await prepared.run(arm);
      if (!row) return false;
      await emit(row);
    }
  }
  return true;
}

export interface ExperimentOptions extends StageContext {
  /** Seeds trained at a time, each by a process of one thread; 1: in this process. */
  workers: number;
}

/** Runs every arm of every cell and seed that has no result yet. Returns whether all were run. */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  { workers, progress, signal }: ExperimentOptions,
): Promise<boolean> {
  await mkdir(directory, { recursive: true });
  const known = (await readResults(directory)).map(resultKey);
  const units = unitsOf(settings);
  const armsIn = ({ seed, model }: Unit) =>
    cellsOf(settings, model).flatMap((cell) =>
      armsOf(cell, settings).map((arm) => resultKey({ cell: cellName(cell), arm: armName(arm), seed })),
    );
  const wanted = units.flatMap(armsIn);
  let done = wanted.filter((key) => known.includes(key)).length;
  const stage = progress?.stage("experiment", { total: wanted.length, done, unit: "arms" });
  const emit = async (row: ResultRow) => {
    await appendResult(directory, row);
    const note = row.failure ? ` (${row.failure})` : "";
    progress?.log(`seed ${row.seed}, ${row.cell}, ${row.arm}: true quality ${row.gold.toFixed(3)}${note}`);
    done++;
    stage?.update(done);
  };
  const queue = units.filter((unit) => armsIn(unit).some((key) => !known.includes(key)));
  let stopped = false;
  const work = async () => {
    for (let unit = queue.shift(); unit && !stopped && !signal?.aborted; unit = queue.shift()) {
      const request = { directory, settings, unit, known };
      const context = signal ? { signal } : {};
      const completed =
        workers === 1 ? await runUnit(request, context, emit) : await runInProcess(request, signal, emit);
      if (!completed) stopped = true;
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  const completed = done === wanted.length;
  if (completed) stage?.succeed();
  else stage?.fail("stopped");
  return completed;
}

/** A unit in a process of one thread: results do not depend on the number of threads, and small models waste a second one. */
async function runInProcess(
  request: UnitRequest,
  signal: AbortSignal | undefined,
  emit: (row: ResultRow) => Promise<void>,
): Promise<boolean> {
  const child: ChildProcess = fork(fileURLToPath(new URL("./worker.js", import.meta.url)), {
    env: { ...process.env, TREFOIL_THREADS: "1" },
  });
  const stop = () => child.kill();
  signal?.addEventListener("abort", stop);
  let pending = Promise.resolve();
  let finished = false;
  let failure: string | undefined;
  child.on("message", (answer: UnitAnswer) => {
    if ("row" in answer) pending = pending.then(() => emit(answer.row));
    else if ("error" in answer) failure = answer.error;
    else finished = true;
  });
  child.send(request);
  await new Promise((resolve) => child.on("close", resolve));
  signal?.removeEventListener("abort", stop);
  await pending;
  if (failure !== undefined) throw new Error(failure);
  if (!finished && !signal?.aborted) throw new Error(`the process of seed ${request.unit.seed} ended without a result`);
  return finished;
}
