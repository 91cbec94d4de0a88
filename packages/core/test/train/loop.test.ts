import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import {
  createProgress,
  type LoopState,
  type MetricsRecord,
  type MetricsSink,
  NonFiniteLossError,
  type TrainLoopOptions,
  trainLoop,
  WALL_CLOCK_FIELDS,
} from "../../src/train/index.js";

class MemorySink implements MetricsSink {
  readonly records: MetricsRecord[] = [];
  flushes = 0;
  write(record: MetricsRecord): void {
    this.records.push(record);
  }
  async flush(): Promise<void> {
    this.flushes++;
  }
  async close(): Promise<void> {}

  /** The records without what depends on the clock. */
  get deterministic(): object[] {
    return this.records.map(({ step, kind, values }) => {
      const kept = Object.entries(values).filter(([name]) => !(WALL_CLOCK_FIELDS as readonly string[]).includes(name));
      return { step, kind, ...Object.fromEntries(kept) };
    });
  }
}

/** A device with one parameter: runs are ordered, asynchronous, and depend on batch and state. */
class FakeDevice {
  weight = 1;
  #queue: Promise<unknown> = Promise.resolve();
  running = 0;
  mostQueued = 0;
  #queued = 0;
  readonly events: string[] = [];

  run(index: number, batch: number): Promise<{ loss: number; tokens: number }> {
    this.events.push(`enqueue ${index}`);
    this.mostQueued = Math.max(this.mostQueued, ++this.#queued);
    const result = this.#queue.then(async () => {
      await sleep(1);
      const loss = (this.weight - batch) ** 2;
      this.weight -= 0.1 * (this.weight - batch);
      this.#queued--;
      this.events.push(`done ${index}`);
      return { loss, tokens: 10 };
    });
    this.#queue = result;
    return result;
  }
}

interface Saved {
  state: LoopState;
  weight: number;
  cursor: number;
}

/** Trains the fake device with a stateful data cursor, which only a strict order of calls keeps right. */
function training(options: Partial<TrainLoopOptions<number>> & { from?: Saved | undefined }) {
  const { from, ...rest } = options;
  const device = new FakeDevice();
  device.weight = from?.weight ?? 1;
  let cursor = from?.cursor ?? 0;
  const saved: Saved[] = [];
  const sink = new MemorySink();
  const loop: TrainLoopOptions<number> = {
    steps: 20,
    resumeFrom: from?.state,
    prepare: () => (cursor++ * 7919) % 13,
    step: (index, batch) => device.run(index, batch),
    evaluateEvery: 6,
    evaluate: async () => ({ loss: device.weight }),
    checkpointEvery: 4,
    checkpoint: async (state) => {
      saved.push({ state, weight: device.weight, cursor });
    },
    metrics: [sink],
    ...rest,
  };
  return { device, saved, sink, result: () => trainLoop(loop) };
}

describe.each([false, true])("overlap %s", (overlap) => {
  test("steps run in order, checkpoints see exactly the steps done", async () => {
    const run = training({ overlap });
    const { status, state, last } = await run.result();
    expect([status, state]).toEqual(["completed", { step: 20, tokens: 200 }]);
    expect(last?.loss).toBe((run.sink.records.findLast(({ kind }) => kind === "train") as MetricsRecord).values.loss);
    expect(run.saved.map(({ state, cursor }) => [state.step, cursor])).toEqual([4, 8, 12, 16, 20].map((n) => [n, n]));
    expect(run.device.mostQueued).toBe(overlap ? 2 : 1);
    expect(run.sink.records.filter(({ kind }) => kind === "evaluate").map(({ step }) => step)).toEqual([6, 12, 18, 20]);
  });

  test("a run stopped anywhere and resumed equals one never stopped, in weights and metrics", async () => {
    const whole = training({ overlap });
    await whole.result();
    for (const stopAfter of [1, 3, 4, 6, 11, 18]) {
      const controller = new AbortController();
      const sink = new MemorySink();
      const stopping = training({
        overlap,
        signal: controller.signal,
        metrics: [
          sink,
          {
            write: ({ step }) => {
              if (step >= stopAfter) controller.abort();
            },
            flush: async () => {},
            close: async () => {},
          },
        ],
      });
      const { status, state } = await stopping.result();
      expect(status).toBe("aborted");
      const checkpoint = stopping.saved.at(-1) as Saved;
      expect(checkpoint.state).toEqual(state);
      expect(checkpoint.cursor).toBe(state.step);
      // At most the step in flight was finished after the stop.
      expect(state.step - stopAfter).toBeLessThanOrEqual(overlap ? 1 : 0);

      const rest = training({ overlap, from: checkpoint });
      expect((await rest.result()).state).toEqual({ step: 20, tokens: 200 });
      expect(rest.device.weight).toBe(whole.device.weight);
      expect([...sink.deterministic, ...rest.sink.deterministic]).toEqual(whole.sink.deterministic);
    }
  });

  test("a NaN loss stops the run, names step and op, and keeps the last good checkpoint", async () => {
    let inDiagnosis: string[] = [];
    const run = training({
      overlap,
      diagnose: async (index) => {
        inDiagnosis = [...run.device.events];
        return `softmax in step ${index}`;
      },
    });
    const original = run.device.run.bind(run.device);
    run.device.run = async (index, batch) => {
      const scalars = await original(index, batch);
      return index === 9 ? { ...scalars, loss: Number.NaN } : scalars;
    };
    const error = await run.result().catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(NonFiniteLossError);
    expect(error).toMatchObject({
      code: "TREFOIL_NON_FINITE_LOSS",
      step: 10,
      scalar: "loss",
      value: Number.NaN,
      op: "softmax in step 9",
    });
    expect((error as Error).message).toContain(
      "loss is NaN at step 10; the first op with a non-finite output is softmax",
    );
    expect((error as Error).message).toContain("the last checkpoint, of step 8, is intact");
    expect(run.saved.map(({ state }) => state.step)).toEqual([4, 8]);
    // The diagnosis has the device to itself.
    expect(inDiagnosis.filter((event) => event.startsWith("enqueue")).length).toBe(
      inDiagnosis.filter((event) => event.startsWith("done")).length,
    );
    expect(run.sink.records.at(-1)?.step).toBe(9);
  });

  test("a failing step rejects the loop once, with nothing unhandled", async () => {
    const run = training({ overlap });
    const original = run.device.run.bind(run.device);
    run.device.run = async (index, batch) => {
      await original(index, batch);
      throw new Error(`step ${index} failed`);
    };
    await expect(run.result()).rejects.toThrow("step 0 failed");
    await sleep(20);
  });

  test("a failing prepare waits for the step in flight and keeps its metrics", async () => {
    const run = training({
      overlap,
      prepare: (index) => {
        if (index === 3) throw new Error("no data");
        return index;
      },
    });
    await expect(run.result()).rejects.toThrow("no data");
    expect(run.sink.records.at(-1)?.step).toBe(3);
    expect(run.device.events.at(-1)).toBe("done 2");
  });
});

test("a gradient norm that is infinite stops the run before it is saved", async () => {
  const saved: number[] = [];
  const loop = trainLoop({
    steps: 3,
    step: async (index) => ({ loss: 1, gradNorm: index === 1 ? Number.POSITIVE_INFINITY : 1 }),
    checkpointEvery: 1,
    checkpoint: async ({ step }) => {
      saved.push(step);
    },
  });
  await expect(loop).rejects.toMatchObject({ step: 2, scalar: "gradNorm" });
  expect(saved).toEqual([1]);
});

test("the event loop gets its turn although steps settle in microtasks", async () => {
  let ticks = 0;
  const timer = setInterval(() => ticks++, 1);
  const until = performance.now() + 200;
  const controller = new AbortController();
  await trainLoop({
    steps: Number.POSITIVE_INFINITY,
    signal: controller.signal,
    step: async () => {
      if (performance.now() > until) controller.abort();
      return { loss: 0 };
    },
  });
  clearInterval(timer);
  // 200 when idle, a few when every core is busy; a loop that starves timers gives none.
  expect(ticks).toBeGreaterThan(3);
});

test("resuming a finished run does nothing", async () => {
  const result = await trainLoop({
    steps: 5,
    resumeFrom: { step: 5, tokens: 50 },
    step: () => Promise.reject(new Error("must not run")),
    checkpoint: () => Promise.reject(new Error("must not save")),
  });
  expect(result).toEqual({ status: "completed", state: { step: 5, tokens: 50 }, last: undefined });
});

test("a stop before the first step saves nothing", async () => {
  const result = await trainLoop({
    steps: 5,
    signal: AbortSignal.abort(),
    step: () => Promise.reject(new Error("must not run")),
    checkpoint: () => Promise.reject(new Error("must not save")),
  });
  expect(result).toMatchObject({ status: "aborted", state: { step: 0, tokens: 0 } });
});

test("rates leave out evaluation and checkpoints, metrics are flushed before a checkpoint", async () => {
  let seconds = 0;
  const sink = new MemorySink();
  let flushesAtCheckpoint = -1;
  await trainLoop({
    steps: 4,
    logEvery: 2,
    now: () => seconds,
    metrics: [sink],
    step: async () => {
      seconds += 2;
      return { loss: 1, tokens: 100 };
    },
    evaluateEvery: 1,
    evaluate: async () => {
      seconds += 50;
      return { loss: 2 };
    },
    checkpointEvery: 4,
    checkpoint: async () => {
      flushesAtCheckpoint = sink.flushes;
      seconds += 500;
    },
  });
  expect(sink.records.filter(({ kind }) => kind === "train")).toEqual([
    {
      step: 2,
      kind: "train",
      values: { loss: 1, tokens: 200, secondsElapsed: 54, secondsPerStep: 2, tokensPerSecond: 50 },
    },
    {
      step: 4,
      kind: "train",
      values: { loss: 1, tokens: 400, secondsElapsed: 158, secondsPerStep: 2, tokensPerSecond: 50 },
    },
  ]);
  expect(flushesAtCheckpoint).toBe(1);
});

test("an outlier is told, once, without touching the metrics", async () => {
  let text = "";
  const progress = createProgress({ stream: { write: (chunk: string) => (text += chunk) }, quiet: true, env: {} });
  await trainLoop({
    steps: 60,
    progress,
    step: async (index) => ({ loss: index === 40 ? 9 : 2 + 0.01 * (index % 5) }),
  });
  expect(text).toMatch(/^warning: the loss of step 41, 9\.000, is \d+\.\d standard deviations above the last ones\n$/);
});

test("the progress line shows the loss, or what was asked for", async () => {
  const lineOf = async (extra: Partial<TrainLoopOptions<undefined>>) => {
    let text = "";
    const progress = createProgress({ stream: { write: (chunk: string) => (text += chunk) }, env: {} });
    const step = async () => ({ loss: 2, reward: 0.5, kl: 3 });
    await trainLoop({ steps: 1, step, progress, ...extra });
    return text.trim().split("\n").at(-1);
  };
  expect(await lineOf({})).toMatch(/^✓ train {2}loss 2 {2}\S+$/);
  // What a step does not have is left out.
  const shown = { "mean reward": "reward", KL: "kl", other: "missing" };
  expect(await lineOf({ shown })).toMatch(/^✓ train {2}mean reward 0\.5000 {2}KL 3 {2}\S+$/);
});
