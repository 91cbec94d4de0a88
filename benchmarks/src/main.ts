import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type CommandContext, Device, defineCommand, runCli, setDefaultDevice, UsageError } from "@trefoil/core";
import { z } from "zod";
import { BenchError } from "./errors.js";
import { kernelCases } from "./kernels/index.js";
import { currentCommit, describeMachine, isIdle, MachineProbe } from "./measure/machine.js";
import { buildNativePrograms } from "./peers/native-programs.js";
import { Peers } from "./peers/peers.js";
import { recipeCases } from "./recipes/index.js";
import { resultPage } from "./report/page.js";
import { peerText, renderTable } from "./report/table.js";
import { compareResults, renderChanges } from "./results/compare.js";
import { readResult, writeResult } from "./results/files.js";
import { appendHistory, historyEntry, readHistory } from "./results/history.js";
import type { Result } from "./results/schema.js";
import { runSuite } from "./run-suite.js";

const here = (path: string): string => fileURLToPath(new URL(`../${path}`, import.meta.url));

const library = z.string().optional().meta({ placeholder: "file" });

const schema = z.strictObject({
  only: z.array(z.string().min(1)).default([]).describe("work whose family or name contains one of these; default all"),
  quick: z.boolean().default(false).describe("a small case of each family and few rounds: to see that it runs"),
  rounds: z
    .number()
    .int()
    .positive()
    .default(9)
    .describe("alternations between us and the peers, at most")
    .meta({ unit: "rounds" }),
  minutes: z
    .strictObject({
      kernels: z.number().positive().default(6).describe("time for all kernels").meta({ unit: "minutes" }),
      recipes: z.number().positive().default(8).describe("time for all recipes").meta({ unit: "minutes" }),
    })
    .prefault({}),
  threads: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("threads of every side; default the cores this process may use"),
  python: z
    .string()
    .optional()
    .describe("Python that has torch and transformers; without it they are missing")
    .meta({ placeholder: "program" }),
  torchCompile: z.boolean().default(false).describe("also measure torch.compile, which compiles each case first"),
  llama: z
    .string()
    .optional()
    .describe("folder where node-llama-cpp is installed; without it llama.cpp is missing")
    .meta({ placeholder: "folder" }),
  libraries: z
    .strictObject({
      openblas: library.describe("OpenBLAS to open; default the one the loader finds"),
      blis: library.describe("BLIS to open; default the one the loader finds"),
      onednn: library.describe("oneDNN to open; default the one the loader finds"),
    })
    .prefault({}),
  record: z.boolean().default(false).describe("append this run to the history"),
  history: z
    .string()
    .default(here("history.jsonl"))
    .describe("throughput across commits")
    .meta({ placeholder: "file" }),
  output: z
    .string()
    .default(here("results"))
    .describe("where the result and its page go")
    .meta({ placeholder: "folder" }),
});
type Config = z.output<typeof schema>;
type Suite = "kernels" | "recipes";

const casesOf = { kernels: kernelCases, recipes: recipeCases };
/** Seconds for a quick suite, and its rounds. */
const quick = { seconds: 10, rounds: 3 };

async function bench(suites: readonly Suite[], config: Config, context: CommandContext): Promise<void> {
  const { only, threads, python, torchCompile, llama, libraries } = config;
  const wanted = ({ family, name }: { family: string; name: string }) =>
    only.length === 0 || only.some((part) => `${family} ${name}`.includes(part));
  const selected = suites.map((suite) => ({ suite, cases: casesOf[suite](config.quick).filter(wanted) }));
  if (selected.every(({ cases }) => cases.length === 0)) {
    const families = new Set(suites.flatMap((suite) => casesOf[suite](config.quick).map(({ family }) => family)));
    throw new UsageError("BENCH_ONLY", `nothing is called ${only.join(" or ")}; there are ${[...families].join(", ")}`);
  }
  const named = process.env.TREFOIL_DEVICE;
  if (named && !/^cpu(:0)?$/.test(named)) {
    const advice = "leave out --device and TREFOIL_DEVICE; native/lab/gpu.sh measures a GPU";
    throw new UsageError("BENCH_DEVICE", `the benchmarks measure the CPU, not ${named}: ${advice}`);
  }
  // Before minutes of measurement, what could spoil them at the end.
  const history = await readHistory(config.history);
  await mkdir(config.output, { recursive: true });
  const cpu = new Device("cpu:0", threads ? { threads } : {});
  setDefaultDevice(cpu);
  const machine = describeMachine(cpu);
  if (!isIdle(machine)) {
    context.progress.warn(
      `the load average is ${machine.loadBefore.toFixed(1)} on ${machine.cores} cores: the numbers will not be fit to quote`,
    );
  }
  const date = new Date().toISOString();
  const programs = await buildNativePrograms();
  using probe = new MachineProbe(programs("machine_probe"));
  using peers = await Peers.find({ programs, python, torchCompile, llama, libraries });
  for (const peer of peers.records) context.progress.log(peerText(peer));
  await probe.sample(machine.threads);
  const result: Result = {
    version: 1,
    date,
    commit: await currentCommit(),
    machine: { ...machine, limits: [] },
    peers: peers.records,
    measurements: [],
    failures: [],
  };
  for (const { suite, cases } of selected) {
    if (cases.length === 0) continue;
    const rounds = config.quick ? Math.min(quick.rounds, config.rounds) : config.rounds;
    const seconds = config.quick ? quick.seconds : config.minutes[suite] * 60;
    const { measurements, failures } = await runSuite({ suite, cases, rounds, seconds, peers, probe, context });
    result.measurements.push(...measurements);
    result.failures.push(...failures);
  }
  await probe.sample(machine.threads);
  result.machine.limits = probe.limits();
  if (result.measurements.length === 0) {
    const [failure] = result.failures;
    if (failure) throw new BenchError("BENCH_RESULT", `nothing could be measured: ${failure.side}: ${failure.reason}`);
    return;
  }
  if (config.record && !context.signal.aborted) {
    const entry = historyEntry(result);
    await appendHistory(config.history, entry);
    history.push(entry);
  }
  const files = await writeResult(config.output, result, resultPage(result, history));
  context.stdout.write(`${renderTable(result)}\n${files.json}\n${files.html}\n`);
}

const command = (name: string, summary: string, suites: readonly Suite[]) =>
  defineCommand({
    name,
    summary,
    description:
      "Every case is measured in turns with the peers that were found, so that drift of the machine hits all alike. Rates of kernels are " +
      "by the runtime's own clock; ratios are the peer's time over ours. Run it on an idle machine.",
    schema,
    run: (config, context) => bench(suites, config, context),
  });

const compare = defineCommand({
  name: "compare",
  summary: "what changed between two results",
  examples: [`bench compare ${join("results", "old.json")} ${join("results", "new.json")}`],
  schema: z.strictObject({
    result: z
      .array(z.string().min(1))
      .length(2)
      .describe("results before and after")
      .meta({ placeholder: "file", positional: true }),
  }),
  async run(config, { stdout }) {
    const [before, after] = [await readResult(config.result[0]!), await readResult(config.result[1]!)];
    stdout.write(renderChanges(compareResults(before, after), before, after));
  },
});

const commands = [
  command("all", "kernels and recipes (what happens without a command)", ["kernels", "recipes"]),
  command("kernels", "single kernels beside BLAS libraries and PyTorch", ["kernels"]),
  command("recipes", "training steps, generation, checkpoints and overheads beside PyTorch and transformers", [
    "recipes",
  ]),
  compare,
];

/** Runs the command line and returns its exit code. Flags alone mean everything, but for `--compare old.json new.json`. */
export async function main(argv: readonly string[]): Promise<number> {
  const args = argv[0] === "--" ? argv.slice(1) : [...argv];
  if (args[0] === "--compare") args[0] = "compare";
  const flagsOnly = args.length === 0 || (args[0]!.startsWith("--") && !["--help", "--version"].includes(args[0]!));
  return await runCli({
    name: "bench",
    version: "0.1.0",
    summary: "Throughput of Trefoil beside its peers, in one run.",
    commands,
    argv: flagsOnly ? ["all", ...args] : args,
  });
}
