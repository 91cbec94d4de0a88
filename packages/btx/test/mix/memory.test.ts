import { join } from "node:path";
import { ModelFolder, SafetensorsWriter } from "@trefoil/core";
import { afterEach, expect, it, vi } from "vitest";
import { mix } from "../../src/index.js";
import { temporaryFolder, writeCheckpoint } from "../checkpoints.js";

afterEach(() => {
  vi.restoreAllMocks();
});

it("never holds more than a chunk of each source, however large the tensors", async () => {
  const folder = temporaryFolder();
  const config = { vocabSize: 40_000, hiddenSize: 128, headDim: 32, intermediateSize: 16, layers: 1 };
  const experts = await Promise.all(
    ["a", "b"].map((name, seed) => writeCheckpoint(join(folder, name), { seed, config })),
  );
  const embedding = 4 * config.vocabSize * config.hiddenSize;
  const chunk = 4 * 2 ** 20;
  // Every byte passes through these two calls: what they are given is all that is held of a tensor.
  const read = vi.spyOn(ModelFolder.prototype, "readRange");
  const whole = vi.spyOn(ModelFolder.prototype, "read");
  const written = vi.spyOn(SafetensorsWriter.prototype, "writeAt");
  await mix({ experts, output: join(folder, "moe") });
  const largestRead = Math.max(...read.mock.calls.map(([, , target]) => target.byteLength));
  const largestWrite = Math.max(...written.mock.calls.map(([, , bytes]) => bytes.byteLength));
  expect(written.mock.calls.length).toBeGreaterThan(embedding / chunk);
  expect(embedding).toBeGreaterThan(4 * chunk);
  expect(largestRead).toBeLessThanOrEqual(chunk);
  expect(largestWrite).toBeLessThanOrEqual(chunk);
  expect(whole).not.toHaveBeenCalled();
});
