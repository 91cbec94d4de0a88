import { fork } from "node:child_process";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ByteTokenizer } from "@trefoil/core";
import { closeDomains, openDomains } from "../domains/index.js";
import type { StageContext } from "../stages/index.js";
import { runArm } from "./arm.js";
import { windowsOf } from "./measure.js";
import { SeedModels } from "./models.js";
import { armName, armsOf, domainNames, type ExperimentSettings, heldOutShare } from "./plan.js";
import { appendResult, keepSettings, type ResultRow, readResults, resultKey } from "./results.js";

/** What a worker process is asked, and what it answers. */
export interface SeedRequest {
  directory: string;
  settings: ExperimentSettings;
  seed: number;
  /** Keys of results that are there. */
  known: readonly string[];
}
export type SeedAnswer = { row: ResultRow } | { finished: true } | { error: string };

const open = (directory: string, { maxBytes }: ExperimentSettings) =>
  openDomains(Object.fromEntries(domainNames.map((name) => [name, `@${name}`])), {
    tokenizer: new ByteTokenizer(),
    cache: join(directory, "data"),
    heldOutShare,
    maxBytes,
  });

/** Runs the arms of a seed that have no result. Returns whether all were run. */
export async function runSeed(
  { directory, settings, seed, known }: SeedRequest,
  signal: AbortSignal | undefined,
  emit: (row: ResultRow) => Promise<void> | void,
): Promise<boolean> {
  const domains = await open(directory, settings);
  try {
    const models = new SeedModels(join(directory, `seed-${seed}`), seed, settings, domains);
    const windows = windowsOf(domains, settings);
    for (const arm of armsOf(settings)) {
      if (known.includes(resultKey({ arm: armName(arm), seed }))) continue;
      if (signal?.aborted) return false;
      await emit(await runArm(arm, models, windows));
    }
    return true;
  } finally {
    closeDomains(domains);
  }
}

export interface ExperimentOptions extends StageContext {
  /** Seeds worked on at a time, each by a process of one thread; 1: in this process. */
  workers: number;
}

/** Runs every arm of every seed that has no result yet. Returns whether all were run. */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  { workers, progress, signal }: ExperimentOptions,
): Promise<boolean> {
  await keepSettings(directory, settings);
  // Once, for all processes.
  closeDomains(await open(directory, settings));
  const known = (await readResults(directory)).map(resultKey);
  const seeds = Array.from({ length: settings.seeds }, (_, i) => i + 1);
  const arms = armsOf(settings).map(armName);
  const missing = (seed: number) => arms.filter((arm) => !known.includes(resultKey({ arm, seed }))).length;
  const total = seeds.length * arms.length;
  let done = total - seeds.reduce((sum, seed) => sum + missing(seed), 0);
  const stage = progress?.stage("experiment", { total, done, unit: "arms" });
  const emit = async (row: ResultRow) => {
    await appendResult(directory, row);
    const switching = row.switching.toFixed(3);
    progress?.log(`seed ${row.seed}, ${row.arm}: ${row.mean.toFixed(3)} bits/byte, switching ${switching}`);
    done++;
    stage?.update(done);
  };
  const queue = seeds.filter((seed) => missing(seed) > 0);
  let stopped = false;
  const work = async () => {
    for (let seed = queue.shift(); seed !== undefined && !stopped && !signal?.aborted; seed = queue.shift()) {
      const request = { directory, settings, seed, known };
      const completed = workers === 1 ? await runSeed(request, signal, emit) : await inProcess(request, signal, emit);
      if (!completed) stopped = true;
    }
  };
  await Promise.all(Array.from({ length: workers }, work));
  const completed = done === total;
  if (completed) stage?.succeed();
  else stage?.fail("stopped");
  return completed;
}

/** A seed in a process of one thread: small models waste a second one, and its CPU time is what an arm took. */
async function inProcess(
  request: SeedRequest,
  signal: AbortSignal | undefined,
  emit: (row: ResultRow) => Promise<void>,
): Promise<boolean> {
  const child = fork(fileURLToPath(new URL("./worker.js", import.meta.url)), {
    env: { ...process.env, TREFOIL_THREADS: "1" },
  });
  const stop = () => child.kill();
  signal?.addEventListener("abort", stop);
  let pending = Promise.resolve();
  let finished = false;
  let failure: string | undefined;
  child.on("message", (answer: SeedAnswer) => {
    if ("row" in answer) pending = pending.then(() => emit(answer.row));
    else if ("error" in answer) failure = answer.error;
    else finished = true;
  });
  child.send(request);
  await new Promise((resolve) => child.on("close", resolve));
  signal?.removeEventListener("abort", stop);
  await pending;
  if (failure !== undefined) throw new Error(failure);
  if (!finished && !signal?.aborted) throw new Error(`the process of seed ${request.seed} ended without a result`);
  return finished;
}
