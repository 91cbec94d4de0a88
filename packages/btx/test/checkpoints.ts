import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  ByteTokenizer,
  encodeFloats,
  generationConfigJson,
  InitialValues,
  llamaConfigJson,
  ModelFolderWriter,
  type TransformerConfigFields,
  tokenizerFiles,
} from "@trefoil/core";
import { onTestFinished } from "vitest";
import { denseTensors } from "../src/mix/tensors.js";

export const tinyConfig: TransformerConfigFields = {
  family: "llama",
  vocabSize: 258,
  hiddenSize: 8,
  intermediateSize: 12,
  layers: 2,
  heads: 4,
  keyValueHeads: 2,
  headDim: 2,
  rmsNormEps: 1e-5,
  ropeTheta: 5e4,
  tieWordEmbeddings: false,
  maxPositions: 64,
  bosTokenId: 256,
  eosTokenIds: [257],
  initializerRange: 0.02,
};

export interface CheckpointOptions {
  config?: Partial<TransformerConfigFields>;
  seed?: number;
  dtype?: "F32" | "F16" | "BF16";
  shardBytes?: number;
  tokenizer?: "byte" | "none";
  /** Changes config.json before it is written. */
  editConfig?: (json: Record<string, unknown>) => void;
  /** Changes the weights, or removes some. */
  editWeights?: (weights: Map<string, Float32Array>) => void;
  /** Tensors beyond those of a Llama. */
  extra?: Record<string, readonly number[]>;
}

/** A folder that is gone after the test. */
export function temporaryFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), "btx-test-"));
  // A disk that is busy with other files takes its time.
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }), 60_000);
  return folder;
}

/** Writes a small dense checkpoint; the same seed gives the same weights. */
export async function writeCheckpoint(path: string, options: CheckpointOptions = {}): Promise<string> {
  const { seed = 0, dtype = "F32", shardBytes, tokenizer = "byte", extra = {} } = options;
  const config = { ...tinyConfig, ...options.config };
  const initial = new InitialValues(seed);
  const shapes = new Map([...denseTensors(config), ...Object.entries(extra)]);
  const weights = new Map([...shapes].map(([name, shape]) => [name, initial.normal(shape, 0.5)]));
  options.editWeights?.(weights);
  const declarations = [...weights.keys()].map((name) => ({ name, shape: shapes.get(name)!, dtype }));
  const writer = await ModelFolderWriter.create(path, declarations, shardBytes === undefined ? {} : { shardBytes });
  for (const [name, values] of weights) await writer.write(name, encodeFloats(dtype, values));
  const json = llamaConfigJson(config, dtype === "F32" ? "float32" : dtype === "F16" ? "float16" : "bfloat16");
  options.editConfig?.(json);
  await writer.writeFile("config.json", json);
  await writer.writeFile("generation_config.json", generationConfigJson(config));
  if (tokenizer === "byte") {
    for (const [name, content] of Object.entries(tokenizerFiles(new ByteTokenizer())))
      await writer.writeFile(name, content);
  }
  await writer.finish();
  return path;
}
