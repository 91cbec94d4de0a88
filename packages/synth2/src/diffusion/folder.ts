import { type GeneratorOrigin, readGeneratorFolder, saveGeneratorFolder } from "../generator/folder.js";
import { loadModelWeights } from "../models/folder.js";
import { denoiserArchitectureSchema } from "./architecture.js";
import { EmbeddingDenoiser } from "./denoiser.js";

export const denoiserKind = "trefoil-embedding-denoiser";

/** Writes weights, configuration and the text tokenizer. @returns the hash */
export const saveDenoiser = (
  model: EmbeddingDenoiser,
  path: string,
  origin: GeneratorOrigin & { overwrite?: boolean },
): Promise<string> => saveGeneratorFolder(denoiserKind, model, path, origin);

/** A trained continuous generator. */
export interface OpenDenoiser extends GeneratorOrigin {
  readonly model: EmbeddingDenoiser;
  readonly hash: string;
}

/** @throws SynthError `SYNTH_MODEL`, `SYNTH_VOCABULARY_MISMATCH` */
export async function openDenoiser(path: string): Promise<OpenDenoiser> {
  const folder = await readGeneratorFolder(path, denoiserKind, denoiserArchitectureSchema);
  const { architecture, hash, config, text, tokenizerHash } = folder;
  const model = new EmbeddingDenoiser(architecture);
  await loadModelWeights(model, path, config);
  return { model, hash, text, tokenizerHash };
}
