import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { main } from "../src/main.js";
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
  expect(await main(["all", ...flags(), "--record"])).toBe(0);
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

test("work that does not exist is a failure, not an empty result", async () => {
  const complaint = vi.spyOn(process.stderr, "write").mockImplementation(() => true);
  expect(await main(["kernels", ...flags(), "--only", "transmogrify"])).toBe(1);
  expect(complaint.mock.calls.join("")).toContain("nothing is called transmogrify");
  complaint.mockRestore();
});
