import { join } from "node:path";
import { ByteTokenizer } from "@trefoil/core";
import { onTestFinished } from "vitest";
import { closeDomains, type DomainTokens, openDomains, type TrainSettings } from "../../src/index.js";

export const tokenizer = new ByteTokenizer();

export const tinySizes = {
  hiddenSize: 16,
  intermediateSize: 24,
  layers: 2,
  heads: 2,
  keyValueHeads: 1,
  maxPositions: 64,
};

export const tinySettings: TrainSettings = {
  steps: 6,
  batch: 4,
  sequence: 32,
  learningRate: 1e-2,
  warmupSteps: 2,
  weightDecay: 0.1,
  clipNorm: 1,
  seed: 1,
  checkpointEvery: 2,
  keepCheckpoints: 2,
};

/** Generated arithmetic and a little real prose. */
export async function tinyDomains(folder: string): Promise<DomainTokens[]> {
  const domains = await openDomains(
    { arithmetic: "@arithmetic", prose: "@prose" },
    { tokenizer, cache: join(folder, "data"), maxBytes: 60_000 },
  );
  onTestFinished(() => closeDomains(domains));
  return domains;
}
