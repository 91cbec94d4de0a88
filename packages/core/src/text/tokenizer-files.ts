import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { writeFileAtomic } from "../io/atomic-file.js";
import { whyMissing } from "../io/model-folder.js";
import { BpeTokenizer, isByteLevelBpe } from "./bpe-tokenizer.js";
import { ByteTokenizer, isByteTokenizer } from "./byte-tokenizer.js";
import { TokenizerError } from "./errors.js";
import { HuggingFaceTokenizer } from "./hf-tokenizer.js";
import type { Tokenizer } from "./tokenizer.js";
import { parseDefinition, type TokenizerConfig } from "./tokenizer-json.js";

/**
 * Reads the tokenizer of a Hugging Face model folder: `tokenizer.json`, and `tokenizer_config.json` where there is one. A template in
 * `chat_template.jinja`, where transformers 5 puts it, comes before one in the configuration.
 * @throws TokenizerError `TOKENIZER_MISSING`, `TOKENIZER_INVALID`
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = join(folder, "tokenizer.json");
  const json = await readJson(path);
  if (json === undefined) {
    const missing =
      "there is no tokenizer.json (other formats are not read: save it with AutoTokenizer.save_pretrained)";
    throw new TokenizerError("TOKENIZER_MISSING", `${folder}: ${await whyMissing(folder, missing)}`);
  }
  const configPath = join(folder, "tokenizer_config.json");
  const config = (await readJson(configPath)) ?? {};
  if (typeof config !== "object" || Array.isArray(config))
    throw new TokenizerError("TOKENIZER_INVALID", `${configPath} is not an object`);
  const template = await readText(join(folder, "chat_template.jinja"));
  return makeTokenizer(json, { ...config, ...(template !== undefined && { chat_template: template }) }, path);
}

/** A tokenizer from parsed `tokenizer.json` and `tokenizer_config.json`. @param source for messages */
export function makeTokenizer(json: unknown, config: TokenizerConfig, source = "tokenizer.json"): Tokenizer {
  const definition = parseDefinition(json, source);
  if (isByteTokenizer(definition)) return new ByteTokenizer(config.chat_template);
  if (isByteLevelBpe(definition)) return new BpeTokenizer(definition, config);
  return new HuggingFaceTokenizer(definition, config);
}

/** The files that `AutoTokenizer` reads, by name. */
export function tokenizerFiles(tokenizer: Tokenizer): { "tokenizer.json": object; "tokenizer_config.json": object } {
  return { "tokenizer.json": tokenizer.definition, "tokenizer_config.json": tokenizer.config };
}

/** Writes the tokenizer's files into an existing folder. */
export async function saveTokenizer(folder: string, tokenizer: Tokenizer): Promise<void> {
  for (const [name, content] of Object.entries(tokenizerFiles(tokenizer))) {
    await writeFileAtomic(join(folder, name), `${JSON.stringify(content, null, 2)}\n`);
  }
}

/** Undefined when there is no such file. */
async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Undefined when there is no such file. */
async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw new TokenizerError("TOKENIZER_INVALID", `${path} is not JSON (${String(cause)})`, { cause });
  }
}
