import { setImmediate } from "node:timers/promises";
import { NonFiniteLossError } from "./errors.js";
import type { MetricsRecord, MetricsSink } from "./metrics.js";
import { OutlierDetector } from "./outliers.js";
import type { Progress, Stage } from "./progress.js";

/** Scalars that a step returns; `tokens` is how many it trained on, summed over the run by the loop. */
export type StepScalars = { readonly loss: number; readonly tokens?: number } & Readonly<Record<string, number>>;

/** What the loop itself must be given back to resume: put it into the checkpoint. */
export interface LoopState {
  /** Steps done. */
  readonly step: number;
  /** Tokens trained on, over all steps. */
  readonly tokens: number;
}

export interface TrainLoopOptions<Batch> {
  /** Steps of the whole run, those before a resume included. */
  readonly steps: number;
  /** State in the checkpoint that parameters were restored from; step 0 when absent. */
  readonly resumeFrom?: LoopState | undefined;

  /**
   * Fetches the batch of step `index` (from 0). With `overlap` it runs while the step before computes, but never ahead
   * of a checkpoint, evaluation or stop: a data cursor saved there is that of the steps done.
   */
  readonly prepare?: (index: number) => Batch | Promise<Batch>;
  /** Trains on one batch: updates parameters, returns scalars. With `overlap`, enqueues before its first `await`. */
  readonly step: (index: number, batch: Batch) => Promise<StepScalars>;
  /** Call step i + 1 before the scalars of step i have arrived, so that the device is never idle. Off by default. */
  readonly overlap?: boolean;

  /** Steps between lines of metrics; 1 by default. The last step is always logged. */
  readonly logEvery?: number;
  readonly evaluateEvery?: number | undefined;
  /** Scalars of an evaluation; also called after the last step. */
  readonly evaluate?: (state: LoopState) => Promise<Readonly<Record<string, number>>>;
  readonly checkpointEvery?: number | undefined;
  /** Saves everything; also called after the last step and on a stop. Metrics are on disk before it is called. */
  readonly checkpoint?: (state: LoopState) => Promise<void>;

  /** Aborted: finish what is enqueued, checkpoint, return. */
  readonly signal?: AbortSignal;
  readonly metrics?: readonly MetricsSink[];
  readonly progress?: Progress;
  /** Title of the progress line. */
  readonly title?: string;
  /** What the progress line shows of a step beside its rate: scalars by label. The loss by default. */
  readonly shown?: Readonly<Record<string, string>>;

  /** Scalars that must be finite; the run stops before it saves otherwise. `loss` and `gradNorm` by default. */
  readonly mustBeFinite?: readonly string[];
  /** Finds the first op of step `index` whose output is not finite. */
  readonly diagnose?: (index: number) => Promise<string | undefined>;
  /** Standard deviations above the recent mean that make a loss worth a warning; 6 by default. */
  readonly outlierThreshold?: number;
  /** Seconds on a monotonic clock. */
  readonly now?: () => number;
}

export interface TrainLoopResult {
  readonly status: "completed" | "aborted";
  readonly state: LoopState;
  /** Scalars of the last step run, if any. */
  readonly last: StepScalars | undefined;
}

/**
 * Runs training steps, logs, evaluates, checkpoints. The event loop stays free: timers and signals are served between
 * steps. What a run computes does not depend on where it was stopped and resumed.
 *
 * @throws NonFiniteLossError when a watched scalar is NaN or infinite; nothing is saved after that step.
 */
export async function trainLoop<Batch = undefined>(options: TrainLoopOptions<Batch>): Promise<TrainLoopResult> {
  return new TrainLoop(options).run();
}

interface Enqueued {
  readonly index: number;
  readonly result: Promise<StepScalars>;
}

class TrainLoop<Batch> {
  readonly #options: TrainLoopOptions<Batch>;
  readonly #now: () => number;
  readonly #startedAt: number;
  readonly #outliers: OutlierDetector;
  readonly #stage: Stage | undefined;
  #state: LoopState;
  #savedStep: number | undefined;
  #last: StepScalars | undefined;
  /** Where the time of the line of metrics in the making began; evaluation and checkpoints push it forward. */
  #lineStartedAt: number;
  #lineTokens = 0;
  #lineSteps = 0;
  #tokensPerSecond = 0;
  #evaluated: Readonly<Record<string, number>> = {};

  constructor(options: TrainLoopOptions<Batch>) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now() / 1000);
    this.#startedAt = this.#now();
    this.#lineStartedAt = this.#startedAt;
    this.#outliers = new OutlierDetector(options.outlierThreshold ?? 6);
    this.#state = options.resumeFrom ?? { step: 0, tokens: 0 };
    this.#savedStep = options.resumeFrom?.step;
    const { title = "train", steps, progress } = options;
    this.#stage = progress?.stage(title, { total: steps, done: this.#state.step, unit: "steps" });
  }

  async run(): Promise<TrainLoopResult> {
    try {
      const status = await this.#runSteps();
      if (status === "completed") this.#stage?.succeed();
      else this.#stage?.fail(`stopped after step ${this.#state.step}`);
      return { status, state: this.#state, last: this.#last };
    } catch (error) {
      this.#stage?.fail();
      throw error;
    }
  }

  async #runSteps(): Promise<TrainLoopResult["status"]> {
    const { steps, step, prepare, overlap = false, signal } = this.#options;
    let inFlight: Enqueued | undefined;
    for (let index = this.#state.step; index < steps && !signal?.aborted; index++) {
      const previous = inFlight;
      inFlight = undefined;
      let current: Enqueued;
      try {
        const batch = (await prepare?.(index)) as Batch;
        current = { index, result: step(index, batch) };
      } catch (error) {
        // What went wrong first is reported first.
        if (previous !== undefined) await this.#finish(previous);
        throw error;
      }
      silence(current.result);
      if (previous !== undefined) await this.#finish(previous, current);
      const drain = !overlap || index + 1 === steps || signal?.aborted === true || this.#isBoundary(index + 1);
      if (drain) {
        await this.#finish(current);
        await this.#visitBoundary(index + 1);
      } else {
        inFlight = current;
      }
      // Steps may settle in microtasks alone; timers, signals and finalizers need a turn of the event loop.
      await setImmediate();
    }
    if (inFlight !== undefined) await this.#finish(inFlight);
    const { step: done } = this.#state;
    const completed = done >= steps;
    if (done !== this.#savedStep && done > 0) await this.#checkpoint();
    await this.#flush();
    return completed ? "completed" : "aborted";
  }

  /** Takes in the scalars of a step; `next` is the step enqueued behind it. */
  async #finish({ index, result }: Enqueued, next?: Enqueued): Promise<void> {
    let scalars: StepScalars;
    try {
      scalars = await result;
      await this.#requireFinite(index, scalars, next);
    } catch (error) {
      await next?.result.catch(() => undefined);
      throw error;
    }
    const tokens = scalars.tokens ?? 0;
    this.#last = scalars;
    this.#state = { step: index + 1, tokens: this.#state.tokens + tokens };
    this.#lineSteps++;
    this.#lineTokens += tokens;
    this.#noticeOutlier(scalars.loss);
    const { logEvery = 1, steps } = this.#options;
    if (this.#state.step % logEvery === 0 || this.#state.step === steps) this.#log(scalars);
    this.#showProgress(scalars);
  }

  async #requireFinite(index: number, scalars: StepScalars, next: Enqueued | undefined): Promise<void> {
    const { mustBeFinite = ["loss", "gradNorm"], diagnose } = this.#options;
    for (const name of mustBeFinite) {
      const value = scalars[name];
      if (value === undefined || Number.isFinite(value)) continue;
      // The diagnosis runs the step again; the device must be done with the one behind it.
      await next?.result.catch(() => undefined);
      throw new NonFiniteLossError(index + 1, name, value, await diagnose?.(index), this.#savedStep);
    }
  }

  #noticeOutlier(loss: number): void {
    const score = this.#outliers.add(loss);
    if (score === undefined) return;
    const { step } = this.#state;
    const text = `the loss of step ${step}, ${loss.toPrecision(4)}, is ${score.toFixed(1)} standard deviations above the last ones`;
    this.#options.progress?.warn(text);
  }

  #log(scalars: StepScalars): void {
    const now = this.#now();
    const seconds = now - this.#lineStartedAt;
    const { tokens: _, ...values } = scalars;
    const timing: Record<string, number> = {
      secondsElapsed: now - this.#startedAt,
      secondsPerStep: seconds / this.#lineSteps,
    };
    if (this.#state.tokens > 0) {
      this.#tokensPerSecond = seconds > 0 ? this.#lineTokens / seconds : 0;
      timing.tokensPerSecond = this.#tokensPerSecond;
    }
    const tokens = this.#state.tokens > 0 ? { tokens: this.#state.tokens } : {};
    this.#write({ step: this.#state.step, kind: "train", values: { ...values, ...tokens, ...timing } });
    this.#lineStartedAt = now;
    this.#lineSteps = 0;
    this.#lineTokens = 0;
  }

  #showProgress(scalars: StepScalars): void {
    const { shown = { loss: "loss" } } = this.#options;
    const entries = Object.entries(shown).map(([label, name]) => [label, scalars[name]] as const);
    const values = Object.fromEntries(entries.filter((entry): entry is [string, number] => entry[1] !== undefined));
    const rate = this.#tokensPerSecond > 0 ? { "tok/s": this.#tokensPerSecond } : {};
    const evaluated = this.#evaluated.loss === undefined ? {} : { "eval loss": this.#evaluated.loss };
    this.#stage?.update(this.#state.step, { ...values, ...rate, ...evaluated });
  }

  #isBoundary(step: number): boolean {
    return this.#isDue(step, "evaluate") || this.#isDue(step, "checkpoint");
  }

  #isDue(step: number, kind: "evaluate" | "checkpoint"): boolean {
    const { steps } = this.#options;
    const every = this.#options[`${kind}Every`];
    return this.#options[kind] !== undefined && (step === steps || (every !== undefined && step % every === 0));
  }

  /** Evaluation before checkpoint: a run resumed from the checkpoint has its evaluation in the metrics already. */
  async #visitBoundary(step: number): Promise<void> {
    const startedAt = this.#now();
    if (this.#isDue(step, "evaluate") && this.#options.evaluate !== undefined) {
      this.#evaluated = await this.#options.evaluate(this.#state);
      const secondsElapsed = this.#now() - this.#startedAt;
      this.#write({ step, kind: "evaluate", values: { ...this.#evaluated, secondsElapsed } });
    }
    if (this.#isDue(step, "checkpoint")) await this.#checkpoint();
    this.#lineStartedAt += this.#now() - startedAt;
  }

  async #checkpoint(): Promise<void> {
    if (this.#options.checkpoint === undefined) return;
    // A crash right after the checkpoint must find every line up to its step.
    await this.#flush();
    await this.#options.checkpoint(this.#state);
    this.#savedStep = this.#state.step;
  }

  #write(record: MetricsRecord): void {
    for (const sink of this.#options.metrics ?? []) sink.write(record);
  }

  async #flush(): Promise<void> {
    await Promise.all((this.#options.metrics ?? []).map((sink) => sink.flush()));
  }
}

/** A rejection that is awaited later, or superseded by an earlier error, must not count as unhandled. */
function silence(promise: Promise<unknown>): void {
  promise.catch(() => undefined);
}
