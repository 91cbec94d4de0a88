import { loadTokenizer, type Module, type Tokenizer, tokenizerFiles } from "@trefoil/core";
import type { z } from "zod";
import { SynthError } from "../errors.js";
import { loadModelWeights, readModelConfig, saveModelFolder } from "../models/folder.js";
import { type GeneratorArchitecture, generatorArchitectureSchema } from "./architecture.js";
import { MaskedGenerator } from "./masked-model.js";

/** What a generator's folder says beside its weights. */
export interface GeneratorOrigin {
  /** Of the captions that it reads. */
  text: Tokenizer;
  /** Hash of the image tokenizer whose codes (or embeddings) it draws. */
  tokenizerHash: string;
}

const kind = "trefoil-masked-generator";

/** Writes weights, configuration and the text tokenizer. @returns the hash */
export const saveGenerator = (
  model: MaskedGenerator,
  path: string,
  origin: GeneratorOrigin & { overwrite?: boolean },
): Promise<string> => saveGeneratorFolder(kind, model, path, origin);

/** Writes the folder of a generator of any kind. @returns the hash */
export async function saveGeneratorFolder(
  kind: string,
  model: Module & { readonly architecture: GeneratorArchitecture },
  path: string,
  { text, tokenizerHash, overwrite = false }: GeneratorOrigin & { overwrite?: boolean },
): Promise<string> {
  return await saveModelFolder(model, path, {
    kind,
    architecture: model.architecture,
    extra: { image_tokenizer_sha256: tokenizerHash, text_tokenizer_sha256: text.hash },
    files: tokenizerFiles(text),
    overwrite,
  });
}

interface OpenedFolder<A> extends GeneratorOrigin {
  architecture: A;
  hash: string;
  config: { readonly architecture: object; readonly sha256: string };
}

/** What the folder of a generator says, of any kind. @throws SynthError `SYNTH_MODEL`, `SYNTH_VOCABULARY_MISMATCH` */
export async function readGeneratorFolder<A extends { vocabulary: number }>(
  path: string,
  kind: string,
  schema: z.ZodType<A>,
): Promise<OpenedFolder<A>> {
  const { architecture, sha256, config } = await readModelConfig(path, kind, schema);
  const text = await loadTokenizer(path);
  if (text.hash !== config.text_tokenizer_sha256 || text.vocabSize !== architecture.vocabulary) {
    throw new SynthError(
      "SYNTH_VOCABULARY_MISMATCH",
      `${path}: its tokenizer.json is not the one that the generator was trained with; put that one back`,
    );
  }
  if (typeof config.image_tokenizer_sha256 !== "string") {
    throw new SynthError("SYNTH_MODEL", `${path} does not say which image tokenizer it belongs to`);
  }
  return { architecture, hash: sha256, config, text, tokenizerHash: config.image_tokenizer_sha256 };
}

/** A trained masked generator. */
export interface OpenMaskedGenerator extends GeneratorOrigin {
  readonly model: MaskedGenerator;
  readonly hash: string;
}

/** @throws SynthError `SYNTH_MODEL`, `SYNTH_VOCABULARY_MISMATCH` */
export async function openGenerator(path: string): Promise<OpenMaskedGenerator> {
  const { architecture, hash, config, text, tokenizerHash } = await readGeneratorFolder(
    path,
    kind,
    generatorArchitectureSchema,
  );
  const model = new MaskedGenerator(architecture);
  await loadModelWeights(model, path, config);
  return { model, hash, text, tokenizerHash };
}

/** @throws SynthError `SYNTH_TOKENIZER_MISMATCH` */
export function requireSameTokenizer(what: string, expected: string, found: string): void {
  if (expected === found) return;
  throw new SynthError(
    "SYNTH_TOKENIZER_MISMATCH",
    `${what} belongs to the image tokenizer ${expected.slice(0, 12)}…, not to ${found.slice(0, 12)}…: codes mean something else there`,
  );
}
