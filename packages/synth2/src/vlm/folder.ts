import type { LanguageModel } from "../captions/language-model.js";
import { SynthError } from "../errors.js";
import { loadModelWeights, readModelConfig, saveModelFolder } from "../models/folder.js";
import { vlmArchitectureSchema } from "./architecture.js";
import { VisionLanguageModel } from "./model.js";

const kind = "trefoil-vision-language-model";

/** Writes resampler, gated blocks, and which language model and image tokenizer they belong to. @returns the hash */
export async function saveVlm(
  model: VisionLanguageModel,
  path: string,
  options: { language: LanguageModel; tokenizerHash: string; overwrite?: boolean },
): Promise<string> {
  const { language, tokenizerHash, overwrite = false } = options;
  return await saveModelFolder(model, path, {
    kind,
    architecture: model.architecture,
    extra: {
      image_tokenizer_sha256: tokenizerHash,
      language_model_sha256: language.hash,
      text_tokenizer_sha256: language.tokenizer.hash,
    },
    overwrite,
  });
}

/** A trained vision-language model on its language model. */
export interface OpenVlm {
  readonly model: VisionLanguageModel;
  readonly hash: string;
  /** Of the image tokenizer whose embeddings it reads. */
  readonly tokenizerHash: string;
}

/**
 * @throws SynthError `SYNTH_MODEL` for a broken folder or another language model, `SYNTH_VOCABULARY_MISMATCH` where the vocabulary is
 *   another too
 */
export async function openVlm(path: string, language: LanguageModel): Promise<OpenVlm> {
  const { architecture, sha256, config } = await readModelConfig(path, kind, vlmArchitectureSchema);
  if (config.text_tokenizer_sha256 !== language.tokenizer.hash) {
    throw new SynthError(
      "SYNTH_VOCABULARY_MISMATCH",
      `${path} was trained on captions of another vocabulary than that of ${language.path}: give its own language model`,
    );
  }
  if (config.language_model_sha256 !== language.hash) {
    throw new SynthError(
      "SYNTH_MODEL",
      `${path} was trained on another language model than ${language.path}: give its own`,
    );
  }
  if (typeof config.image_tokenizer_sha256 !== "string") {
    throw new SynthError("SYNTH_MODEL", `${path} does not say which image tokenizer it belongs to`);
  }
  const model = new VisionLanguageModel(architecture, language.model);
  await loadModelWeights(model, path, { architecture, sha256 });
  return { model, hash: sha256, tokenizerHash: config.image_tokenizer_sha256 };
}
