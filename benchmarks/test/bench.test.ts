import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { main } from "../src/main.js";
import { readResult } from "../src/results/files.js";
import { measurementKey, type Result, resultSchema } from "../src/results/schema.js";

let folder: string;
const printed = vi.spyOn(process.stdout, "write").mockImplementation(() => true);
const output = (): string => printed.mock.calls.map(([text]) => String(text)).join("");

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-bench-test-"));
});
afterAll(async () => {
  printed.mockRestore();
  await rm(folder, { recursive: true, force: true });
});

const flags = () => [
  "--quick",
  "--rounds",
  "1",
  "--quiet",
  "--output",
  folder,
  "--history",
  join(folder, "history.jsonl"),
];

async function results(): Promise<string[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith(".json"));
  return names.sort((a, b) => a.length - b.length).map((name) => join(folder, name));
}

const read = async (path: string): Promise<Result> => resultSchema.parse(JSON.parse(await readFile(path, "utf8")));

test("measures every family, and writes a result that fits the schema with its page", async () => {
  expect(await main([...flags(), "--record"])).toBe(0);
  const [path] = await results();
  const { measurements, failures, machine, peers } = await read(path!);
  expect(failures).toEqual([]);
  expect(new Set(measurements.map(({ suite }) => suite))).toEqual(new Set(["kernels", "recipes"]));
  expect(measurements.length).toBeGreaterThan(25);
  expect(new Set(measurements.map(measurementKey)).size).toBe(measurements.length);
  expect(peers.find(({ name }) => name === "pytorch")?.status).toBe("missing");

  const [limits] = machine.limits;
  expect(limits!.fmaGigaflops.median).toBeGreaterThan(0);
  expect(limits!.copyGigabytes.median).toBeGreaterThan(0);
  for (const { name, amount, unit, ours, shareOfPeak } of measurements) {
    expect(ours.rate.median, name).toBeGreaterThan(0);
    // The runtime's clock must not give a kernel more time than its whole call took by ours. Two passes, so some slack for noise.
    if (ours.callSeconds) expect(ours.seconds.low, name).toBeLessThan(10 * ours.callSeconds.high);
    // One round: median rate and median time are of the same sample.
    const scale = unit.startsWith("G") ? 1e9 : 1;
    if (ours.rate.samples === 1) expect(ours.rate.median, name).toBeCloseTo(amount / ours.seconds.median / scale, 3);
    // No kernel is faster than registers by more than the clock may change; a busy machine slows the probe too.
    if (unit === "GFLOP/s" && machine.loadBefore < 0.5) expect(shareOfPeak, name).toBeLessThan(1.3);
  }

  const page = await readFile(path!.replace(/json$/, "html"), "utf8");
  expect(page).toContain("Trefoil benchmarks");
  for (const { family } of measurements) expect(page).toContain(family);
  expect(output()).toContain("matmul nn");
  for (const name of ["pytorch", "torch.compile", "llama.cpp"]) expect(output()).toContain(`\n${name} missing: `);
});

test("a second run of selected work is compared with the first, and the history grows", async () => {
  expect(await main(["kernels", ...flags(), "--only", "adamw", "--only", "256x256x256", "--record"])).toBe(0);
  const [first, second] = await results();
  const { measurements } = await read(second!);
  expect(measurements.map(({ family }) => family)).toEqual(["matmul nn", "adamw"]);
  const history = (await readFile(join(folder, "history.jsonl"), "utf8")).trim().split("\n");
  expect(history.map((line) => Object.keys(JSON.parse(line).rates))[1]).toEqual(["matmul nn", "adamw"]);

  expect(await readFile(second!.replace(/json$/, "html"), "utf8")).toContain("History on this processor");

  for (const command of ["compare", "--compare"]) {
    printed.mockClear();
    expect(await main([command, first!, second!])).toBe(0);
    expect(output()).toContain("over 2 cases");
  }
});

test("every command of the README runs", async () => {
  const readme = await readFile(new URL("../README.md", import.meta.url), "utf8");
  const lines = [...readme.matchAll(/```sh\n(.*?)```/gs)]
    .flatMap(([, block]) => block!.trim().split("\n"))
    .map((line) => line.replace(/#.*/, "").trim());
  expect(lines.length).toBeGreaterThan(4);
  const [first, second] = await results();
  for (const line of lines) {
    const [program, script, ...words] = line.split(/\s+/);
    expect([program, script]).toEqual(["pnpm", "bench"]);
    printed.mockClear();
    if (words[0] === "--compare") {
      expect(words.slice(1)).toEqual(["old.json", "new.json"]);
      expect(await main(["--compare", first!, second!]), line).toBe(0);
      expect(output()).toContain("geometric mean");
      continue;
    }
    // One case where the line names none; `--quick` is among the flags.
    const small = words.includes("--only") ? [] : ["--only", words[0] === "recipes" ? "addon crossing" : "adamw"];
    expect(await main([...words.filter((word) => word !== "--quick"), ...small, ...flags()]), line).toBe(0);
    expect(output()).toMatch(/\.json\n.*\.html\n$/);
  }
}, 120_000);

async function refused(...argv: string[]): Promise<{ code: number; complaint: string }> {
  const written = vi.spyOn(process.stderr, "write").mockImplementation(() => true);
  try {
    const code = await main(argv);
    const complaint = written.mock.calls.map(([text]) => String(text)).join("");
    expect(complaint).not.toContain("    at ");
    return { code, complaint };
  } finally {
    written.mockRestore();
  }
}

test("work that does not exist, a device that is not the CPU and a broken history are refused before anything is measured", async () => {
  const before = await results();
  const { code, complaint } = await refused("kernels", ...flags(), "--only", "transmogrify");
  expect(code).toBe(2);
  expect(complaint).toMatch(/nothing is called transmogrify; there are .*attention/);

  vi.stubEnv("TREFOIL_DEVICE", "cuda");
  expect(await refused("kernels", ...flags(), "--only", "adamw")).toMatchObject({
    code: 2,
    complaint: expect.stringContaining("the benchmarks measure the CPU, not cuda"),
  });
  vi.unstubAllEnvs();

  const history = join(folder, "broken.jsonl");
  await writeFile(history, '{"version":2}\n');
  const broken = await refused("kernels", "--quick", "--only", "adamw", "--output", folder, "--history", history);
  expect(broken).toEqual({ code: 1, complaint: expect.stringContaining("line 1 is not a record of the history") });
  expect(await results()).toEqual(before);
});

test("results that are kept in the repository are of this version", async () => {
  const kept = new URL("../results/", import.meta.url);
  const names = (await readdir(kept)).filter((name) => name.endsWith(".json"));
  expect(names.length).toBeGreaterThan(0);
  for (const name of names) expect((await readResult(fileURLToPath(new URL(name, kept)))).measurements).not.toEqual([]);
});

test("a result of another version, or what is none, is named with what is wrong", async () => {
  const [first] = await results();
  const other = join(folder, "other-version");
  await writeFile(other, JSON.stringify({ ...(await read(first!)), version: 2 }));
  expect(await refused("compare", first!, other)).toMatchObject({
    code: 1,
    complaint: expect.stringMatching(
      /other-version is not a result that this version .*\(version: .*\): name a \.json/,
    ),
  });
  await writeFile(other, "{torn");
  expect((await refused("compare", other, first!)).complaint).toMatch(/other-version is not a result .*JSON/);
  expect((await refused("compare", join(folder, "absent"), first!)).complaint).toContain("no such file");
});
