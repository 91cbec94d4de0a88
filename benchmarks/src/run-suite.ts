import { type CommandContext, Device, defaultDevice, setDefaultDevice } from "@trefoil/core";
import { interleave } from "./measure/interleave.js";
import type { MachineProbe } from "./measure/machine.js";
import { type Case, type Opened, type Timing, units } from "./measure/side.js";
import { pairedRatio, spread } from "./measure/statistics.js";
import type { Peers } from "./peers/peers.js";
import type { Measurement, Result } from "./results/schema.js";

export interface SuiteOptions {
  suite: Measurement["suite"];
  cases: readonly Case[];
  rounds: number;
  /** The whole suite may take about this long. Preparing peers is not counted. */
  seconds: number;
  peers: Peers;
  probe: MachineProbe;
  context: Pick<CommandContext, "progress" | "signal">;
}

/** A case whose share of the time would be shorter than this is measured for this long. */
const shortestCase = 0.3;

/** Measures cases one after another. Interrupted, it returns what was measured so far. */
export async function runSuite(options: SuiteOptions): Promise<Pick<Result, "measurements" | "failures">> {
  const { suite, cases, context } = options;
  const measurements: Measurement[] = [];
  const failures: Result["failures"] = [];
  const stage = context.progress.stage(suite, { total: cases.length, unit: "cases" });
  let spent = 0;
  let family = "";
  for (const [i, each] of cases.entries()) {
    if (context.signal.aborted) break;
    const work = `${each.family} ${each.name}`;
    stage.update(i, { now: work });
    const threads = each.threads ?? defaultDevice().info.threads;
    if (each.family !== family || !options.probe.has(threads)) await options.probe.sample(threads);
    family = each.family;
    const failed = (side: string, reason: string) => failures.push({ work, side, reason });
    // What earlier cases did not use is shared by the rest.
    const seconds = Math.max(shortestCase, (options.seconds - spent) / (cases.length - i));
    const begun = performance.now();
    try {
      const { measurement, preparation } = await runCase(each, threads, { ...options, seconds }, failed);
      measurements.push(measurement);
      spent += (performance.now() - begun) / 1000 - preparation;
    } catch (error) {
      if (context.signal.aborted) break;
      failed("trefoil", (error as Error).message);
    }
  }
  stage.update(measurements.length, {});
  stage.succeed();
  for (const { work, side, reason } of failures)
    context.progress.warn(`${work}: ${side} failed: ${reason.split("\n")[0]}`);
  const limits = options.probe.limits();
  for (const [i, measurement] of measurements.entries()) {
    const each = cases.find(
      (candidate) => candidate.family === measurement.family && candidate.name === measurement.name,
    )!;
    measurements[i] = { ...measurement, shareOfPeak: shareOfPeak(each, measurement, limits) };
  }
  return { measurements, failures };
}

async function runCase(
  each: Case,
  threads: number,
  options: SuiteOptions,
  failed: (side: string, reason: string) => void,
): Promise<{ measurement: Measurement; preparation: number }> {
  const usual = defaultDevice();
  if (threads !== usual.info.threads) setDefaultDevice(new Device("cpu:0", { threads }));
  let opened: Opened | undefined;
  try {
    const begun = performance.now();
    opened = await each.open();
    const { side, references = [], details = {} } = opened;
    const peers = await options.peers.sides(each, threads, failed);
    const preparation = (performance.now() - begun) / 1000;
    const { rounds, seconds } = options;
    const sides = [side, ...references, ...peers];
    const timings = await interleave(sides, { rounds, seconds, signal: options.context.signal });
    const [ours, ...others] = timings.map((rounds, i) => ({
      ...summarise(sides[i]!.name, rounds, each),
      ...learned(rounds, timings),
    }));
    const secondsOf = (at: number) => timings[at]!.map(({ seconds }) => seconds);
    const ratios = Object.fromEntries(others.map(({ name }, i) => [name, pairedRatio(secondsOf(0), secondsOf(i + 1))]));
    const { family, name, unit, amount } = each;
    const { suite } = options;
    const measurement = {
      suite,
      family,
      name,
      threads,
      unit,
      amount,
      shareOfPeak: null,
      ours: ours!,
      others,
      ratios,
      details,
    };
    return { measurement, preparation };
  } finally {
    await opened?.close?.();
    setDefaultDevice(usual);
  }
}

function summarise(name: string, timings: readonly Timing[], { amount, unit }: Case): Measurement["ours"] {
  const seconds = timings.map((timing) => timing.seconds);
  const calls = timings.flatMap(({ callSeconds }) => callSeconds ?? []);
  const rate = spread(seconds.map((each) => amount / each / units[unit]));
  const side = { name, seconds: spread(seconds), rate };
  return calls.length > 0 ? { ...side, callSeconds: spread(calls) } : side;
}

/** How well a side does in the later half of the repetitions that all scored sides did. */
function learned(own: readonly Timing[], all: readonly (readonly Timing[])[]): Pick<Measurement["ours"], "score"> {
  const scoresOf = (rounds: readonly Timing[]) => rounds.at(-1)?.scores;
  const scores = scoresOf(own);
  if (!scores) return {};
  const to = Math.min(...all.flatMap((rounds) => scoresOf(rounds)?.length ?? []));
  const from = Math.floor(to / 2);
  const later = scores.slice(from, to);
  const mean = later.reduce((sum, each) => sum + each, 0) / later.length;
  const variance = later.reduce((sum, each) => sum + (each - mean) ** 2, 0) / Math.max(1, later.length - 1);
  return { score: { from: from + 1, to, mean, error: Math.sqrt(variance / later.length) } };
}

/** Work on fewer bytes may stay in a cache, and memory is not its limit. */
const beyondCaches = 64 * 2 ** 20;

function shareOfPeak(
  { bound, amount, boundAmount = amount }: Case,
  { ours, threads }: Measurement,
  limits: ReturnType<MachineProbe["limits"]>,
): number | null {
  const measured = limits.find((limit) => limit.threads === threads);
  if (!bound || !measured || (bound === "memory" && boundAmount < beyondCaches)) return null;
  const peak = bound === "compute" ? measured.fmaGigaflops.median : measured.copyGigabytes.median;
  return peak > 0 ? boundAmount / ours.seconds.median / 1e9 / peak : null;
}
