import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { type CausalLM, loadModel, loadTokenizer, type Tokenizer, type TransformerConfig } from "@trefoil/core";
import { RlhfError } from "../errors.js";

/** A policy folder in memory. Frees its parameters when it goes out of scope. */
export class OpenPolicy implements Disposable {
  private constructor(
    readonly path: string,
    readonly model: CausalLM,
    readonly config: TransformerConfig,
    readonly tokenizer: Tokenizer,
    /** Ids that end a response. */
    readonly eosTokenIds: readonly number[],
  ) {}

  /**
   * @throws RlhfError `RLHF_TOKENIZER` when nothing says which token ends a text, or when padding would hide the end
   * @throws ModelFolderError, TokenizerError
   */
  static async open(path: string): Promise<OpenPolicy> {
    const { model, config } = await loadModel(path);
    const tokenizer = await loadTokenizer(path);
    return new OpenPolicy(path, model, config, tokenizer, endIds(path, config, tokenizer));
  }

  [Symbol.dispose](): void {
    this.model.dispose();
  }
}

function endIds(path: string, config: TransformerConfig, tokenizer: Tokenizer): readonly number[] {
  const ids = new Set(config.eosTokenIds);
  if (tokenizer.eosTokenId !== undefined) ids.add(tokenizer.eosTokenId);
  if (ids.size === 0) {
    throw new RlhfError(
      "RLHF_TOKENIZER",
      `${path} has no end-of-text token: responses could never end. Set eos_token in tokenizer_config.json, or eos_token_id in config.json`,
    );
  }
  return [...ids];
}

/** SHA-256 over a model folder's configuration, tokenizer (the tokens that begin and end texts too) and weights. */
export async function hashModelFolder(path: string): Promise<string> {
  const hash = createHash("sha256");
  const names = (await readdir(path)).filter((name) => /^(config|tokenizer)\.json$|\.safetensors$/.test(name)).sort();
  for (const name of names) {
    hash.update(`${name}\0`);
    for await (const chunk of createReadStream(join(path, name))) hash.update(chunk as Uint8Array);
  }
  // The rest of tokenizer_config.json, such as a chat template, changes prompts, which are told apart by themselves.
  const { bosTokenId = null, eosTokenId = null } = await loadTokenizer(path);
  return hash.update(JSON.stringify([bosTokenId, eosTokenId])).digest("hex");
}
