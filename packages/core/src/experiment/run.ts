import { fork } from "node:child_process";
import { isExpected, TrefoilError } from "../tensor/errors.js";
import type { StageContext } from "../train/index.js";
import { appendResultRow, readResultRows } from "./results.js";
import { keepSettings } from "./settings.js";

/** What one process works on at a time, such as a seed: its arms share data and models. */
export interface UnitRequest<Settings, Unit> {
  directory: string;
  settings: Settings;
  unit: Unit;
  /** Keys of results that are there. */
  known: readonly string[];
}

/** Runs the arms of a unit that have no result, and emits each one's row as it comes. @returns whether all were run */
export type RunUnit<Settings, Unit, Row> = (
  request: UnitRequest<Settings, Unit>,
  signal: AbortSignal | undefined,
  emit: (row: Row) => Promise<void> | void,
) => Promise<boolean>;

export interface ExperimentOptions extends StageContext {
  /** Units (such as seeds) worked on at a time, each by a process of one thread; 1: in this process. */
  workers: number;
}

export interface ExperimentPlan<Settings, Unit, Row> {
  /** Of `results.jsonl` and `settings.json`. */
  directory: string;
  settings: Settings;
  /** Settings that a later run in the same folder may change: those that only say which rows there are. */
  mayChange: readonly (keyof Settings)[];
  /** Makes what all units share, once. */
  prepare?: () => Promise<void>;
  /** In the order in which they are begun. */
  units: readonly Unit[];
  /** Keys of the rows of a unit. */
  keysOf: (unit: Unit) => readonly string[];
  keyOf: (row: Row) => string;
  run: RunUnit<Settings, Unit, Row>;
  /** Module that calls `serveUnits` with `run`. */
  worker: URL;
  /** A row in a line, for the log. */
  describe: (row: Row) => string;
}

/** An error on its way between processes. `code`: of one that a user can mend. */
interface SentError {
  message: string;
  stack: string | undefined;
  code: string | undefined;
  cause: SentError | undefined;
}

type Answer<Row> = { row: Row } | { finished: true } | { error: SentError };

/**
 * Runs every arm that has no line in `results.jsonl` yet, unit by unit: stopped or killed and called again, it goes on where it was.
 * @returns whether all arms have their result
 * @throws ResumeError where the folder holds results of other settings; the first error of a unit, after the others' processes were ended
 */
export async function runUnits<Settings extends object, Unit, Row extends object>(
  { workers, progress, signal }: ExperimentOptions,
  plan: ExperimentPlan<Settings, Unit, Row>,
): Promise<boolean> {
  const { directory, settings, units, keysOf, keyOf } = plan;
  await keepSettings(directory, settings, plan.mayChange);
  await plan.prepare?.();
  const known = (await readResultRows<Row>(directory)).map(keyOf);
  const wanted = units.flatMap(keysOf);
  let done = wanted.filter((key) => known.includes(key)).length;
  const stage = progress?.stage("experiment", { total: wanted.length, done, unit: "arms" });
  const emit = async (row: Row): Promise<void> => {
    await appendResultRow(directory, row);
    progress?.log(plan.describe(row));
    done++;
    stage?.update(done);
  };
  const queue = units.filter((unit) => keysOf(unit).some((key) => !known.includes(key)));
  let stopped = false;
  const failed = new AbortController();
  const ending = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const work = async (): Promise<void> => {
    for (let unit = queue.shift(); unit !== undefined && !stopped && !ending.aborted; unit = queue.shift()) {
      const request = { directory, settings, unit, known };
      const completed =
        workers === 1 ? await plan.run(request, signal, emit) : await runInProcess(plan.worker, request, ending, emit);
      if (!completed) stopped = true;
    }
  };
  const workDone = Array.from({ length: workers }, () =>
    work().catch((error: unknown) => {
      failed.abort();
      throw error;
    }),
  );
  await Promise.allSettled(workDone);
  await Promise.all(workDone);
  const completed = done === wanted.length;
  if (completed) stage?.succeed();
  else stage?.fail("stopped");
  return completed;
}

/** A unit in a process of one thread: small models waste a second one, and its CPU time is what an arm took. */
async function runInProcess<Settings, Unit, Row>(
  worker: URL,
  request: UnitRequest<Settings, Unit>,
  signal: AbortSignal,
  emit: (row: Row) => Promise<void>,
): Promise<boolean> {
  const child = fork(worker, { env: { ...process.env, TREFOIL_THREADS: "1" } });
  const stop = () => child.kill();
  signal.addEventListener("abort", stop);
  let pending = Promise.resolve();
  let finished = false;
  let failure: SentError | undefined;
  child.on("message", (answer: Answer<Row>) => {
    if ("row" in answer) pending = pending.then(() => emit(answer.row));
    else if ("error" in answer) failure = answer.error;
    else finished = true;
  });
  child.send(request as object);
  await new Promise((resolve) => child.on("close", resolve));
  signal.removeEventListener("abort", stop);
  await pending;
  if (failure !== undefined) throw received(failure);
  if (!finished && !signal.aborted) {
    throw new Error(`the process of ${JSON.stringify(request.unit)} ended without a result`);
  }
  return finished;
}

/** The whole of a worker module: runs the one unit that the parent process sends, and sends its rows back. */
export function serveUnits<Settings, Unit, Row>(run: RunUnit<Settings, Unit, Row>): void {
  const answer = (message: Answer<Row>) => new Promise<void>((resolve) => process.send!(message, () => resolve()));
  // Ctrl-C reaches all processes of a terminal: the parent ends this one, whose unfinished arm is run again.
  process.on("SIGINT", () => {});
  process.on("disconnect", () => process.exit(1));
  process.once("message", async (request: UnitRequest<Settings, Unit>) => {
    try {
      await run(request, undefined, (row) => answer({ row }));
      await answer({ finished: true });
    } catch (error) {
      await answer({ error: sent(error) });
    }
    process.disconnect();
  });
}

function sent(error: unknown): SentError {
  if (!(error instanceof Error)) return { message: String(error), stack: undefined, code: undefined, cause: undefined };
  const code = isExpected(error) && "code" in error ? String(error.code) : undefined;
  return {
    message: error.message,
    stack: error.stack,
    code,
    cause: error.cause === undefined ? undefined : sent(error.cause),
  };
}

function received({ message, stack, code, cause }: SentError): Error {
  const options = cause && { cause: received(cause) };
  const error = code === undefined ? new Error(message, options) : new TrefoilError(code, message, options);
  if (stack !== undefined) error.stack = stack;
  return error;
}
