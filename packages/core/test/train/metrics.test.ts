import { closeSync, existsSync, openSync } from "node:fs";
import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { openMetricsFile, readMetricsFile } from "../../src/train/index.js";
import { appendWhole } from "../../src/train/metrics.js";

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), "trefoil-metrics-"));
});
afterAll(() => rm(folder, { recursive: true }));

const now = () => new Date(0);

async function write(file: string, steps: number[], resumeStep?: number): Promise<void> {
  const metrics = await openMetricsFile(file, { resumeStep, now });
  for (const step of steps) {
    metrics.write({ step, kind: "train", values: { loss: 1 / step } });
    if (step % 2 === 0) metrics.write({ step, kind: "evaluate", values: { loss: 2 / step } });
  }
  await metrics.close();
}

test("one object for each record, with null for what JSON cannot say", async () => {
  const file = path.join(folder, "plain.jsonl");
  const metrics = await openMetricsFile(file, { now });
  metrics.write({ step: 1, kind: "train", values: { loss: 2.5, perplexity: Number.POSITIVE_INFINITY } });
  await metrics.close();
  expect(await readFile(file, "utf8")).toBe(
    '{"step":1,"kind":"train","loss":2.5,"perplexity":null,"time":"1970-01-01T00:00:00.000Z"}\n',
  );
  expect(await readMetricsFile(file)).toEqual([{ step: 1, kind: "train", values: { loss: 2.5 } }]);
  expect(() => metrics.write({ step: 2, kind: "train", values: {} })).toThrow(/closed already/);
});

test("resuming cuts what the checkpoint does not know, a torn line too, and then equals an uninterrupted file", async () => {
  const whole = path.join(folder, "whole.jsonl");
  await write(whole, [1, 2, 3, 4, 5, 6]);
  const resumed = path.join(folder, "resumed.jsonl");
  await write(resumed, [1, 2, 3, 4, 5]);
  await appendFile(resumed, '{"step":6,"ki');
  await write(resumed, [5, 6], 4);
  expect(await readFile(resumed, "utf8")).toBe(await readFile(whole, "utf8"));
});

test("resuming keeps the evaluation of the resumed step; a torn tail alone is removed", async () => {
  const file = path.join(folder, "torn.jsonl");
  await write(file, [1, 2]);
  const before = await readFile(file, "utf8");
  await appendFile(file, '{"step":2');
  await write(file, [], 2);
  expect(await readFile(file, "utf8")).toBe(before);
});

test("a new run starts an empty file, resuming without a file starts one", async () => {
  const file = path.join(folder, "fresh.jsonl");
  await write(file, [1, 2, 3]);
  await write(file, [1]);
  expect(await readMetricsFile(file)).toHaveLength(1);
  await write(path.join(folder, "new.jsonl"), [4], 3);
  expect(await readMetricsFile(path.join(folder, "new.jsonl"))).toHaveLength(2);
});

test("a file that is no metrics file is refused, not truncated", async () => {
  const file = path.join(folder, "other.txt");
  await writeFile(file, "hello\nworld\n");
  await expect(openMetricsFile(file, { resumeStep: 3 })).rejects.toMatchObject({ code: "METRICS_UNREADABLE" });
  expect(await readFile(file, "utf8")).toBe("hello\nworld\n");
});

// Only Linux has a device that is always full.
test.runIf(existsSync("/dev/full"))("a full disk is a named error", () => {
  const descriptor = openSync("/dev/full", "a");
  expect(() => appendWhole(descriptor, Buffer.from("{}\n"), "metrics.jsonl")).toThrow(
    expect.objectContaining({
      code: "METRICS_WRITE",
      message: "cannot write metrics.jsonl; is the disk full?",
      cause: expect.objectContaining({ code: "ENOSPC" }),
    }),
  );
  closeSync(descriptor);
});
