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
  const read = vi.spyOn(ModelFolder.prototype, "placeOf");
  const written = vi.spyOn(SafetensorsWriter.prototype, "placeFor");
  const others = [vi.spyOn(ModelFolder.prototype, "read"), vi.spyOn(ModelFolder.prototype, "readRange")];
  await mix({ experts, output: join(folder, "moe") });
  const largest = (calls: readonly [string, number, number][]) => Math.max(...calls.map(([, , bytes]) => bytes));
  expect(written.mock.calls.length).toBeGreaterThan(embedding / chunk);
  expect(embedding).toBeGreaterThan(4 * chunk);
  expect(largest(read.mock.calls)).toBeLessThanOrEqual(chunk);
  expect(largest(written.mock.calls)).toBeLessThanOrEqual(chunk);
  for (const call of others) expect(call).not.toHaveBeenCalled();
});
