import type { GgufValue } from "../io/gguf-writer.js";
import { ByteTokenizer } from "../text/byte-tokenizer.js";
import type { Tokenizer } from "../text/index.js";
import { mergePairs, type TokenizerDefinition, vocabEntries } from "../text/tokenizer-json.js";
import { byteLevelSplit, sentencePiecePrefix } from "./gguf-tokenizer-kinds.js";
import { bool, GgufError, text, u32 } from "./gguf-values.js";

/** llama.cpp's `llama_token_type`. */
const tokenTypes = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/**
 * A tokenizer as llama.cpp reads it: byte-level BPE with a split that it knows, or SentencePiece's BPE.
 * @param vocabSize rows of the model's embedding: a model may have more than its tokenizer has tokens
 * @throws GgufError for a tokenizer that llama.cpp would apply differently
 */
export function ggufVocabulary(tokenizer: Tokenizer, vocabSize: number): Record<string, GgufValue> {
  const { definition, config, bosTokenId, eosTokenId, padTokenId } = tokenizer;
  const split = tokenizer instanceof ByteTokenizer ? "gpt-2" : byteLevelSplit(definition);
  const spacePrefix = sentencePiecePrefix(definition);
  if (split === undefined && spacePrefix === undefined) {
    throw new GgufError(
      "llama.cpp is given byte tokens, byte-level BPE split as GPT-2 or Llama 3 splits it, and SentencePiece's BPE, and this tokenizer is " +
        "another: save a Hugging Face folder with saveModel and use llama.cpp's convert_hf_to_gguf.py",
    );
  }
  const unknown = split === undefined ? vocabEntries(definition).get(String(definition.model.unk_token)) : undefined;
  const ids = { bos: bosTokenId, eos: eosTokenId, unknown, padding: padTokenId };
  const kind =
    split === undefined
      ? {
          "tokenizer.ggml.model": text("llama"),
          "tokenizer.ggml.scores": { type: "f32s", value: scores(definition, vocabSize) } as const,
          "tokenizer.ggml.add_space_prefix": bool(spacePrefix === true),
        }
      : {
          "tokenizer.ggml.model": text("gpt2"),
          "tokenizer.ggml.pre": text(split),
          "tokenizer.ggml.merges": {
            type: "strings",
            value: mergePairs(definition).map(([left, right]) => `${left} ${right}`),
          } as const,
        };
  return {
    ...kind,
    ...tokens(definition, vocabSize, unknown),
    ...Object.fromEntries(
      Object.entries(ids).flatMap(([name, id]) =>
        id === undefined ? [] : [[`tokenizer.ggml.${name}_token_id`, u32(id)]],
      ),
    ),
    "tokenizer.ggml.add_bos_token": bool(beginsWithBos(definition, bosTokenId)),
    ...(typeof config.chat_template === "string" && { "tokenizer.chat_template": text(config.chat_template) }),
  };
}

function tokens(definition: TokenizerDefinition, vocabSize: number, unknown: number | undefined) {
  const added = new Map(definition.added_tokens.map(({ id, special }) => [id, special]));
  const names = Array.from({ length: vocabSize }, (_, id) => `[unused${id}]`);
  const types: number[] = names.map(() => tokenTypes.unused);
  for (const [token, id] of vocabEntries(definition)) {
    if (id >= vocabSize) throw new GgufError(`token ${id} is beyond the model's vocabulary of ${vocabSize}`);
    names[id] = token;
    const special = added.get(id);
    if (id === unknown) types[id] = tokenTypes.unknown;
    else if (special !== undefined) types[id] = special ? tokenTypes.control : tokenTypes.userDefined;
    else if (unknown !== undefined && /^<0x[0-9A-F]{2}>$/.test(token)) types[id] = tokenTypes.byte;
    else types[id] = tokenTypes.normal;
  }
  return {
    "tokenizer.ggml.tokens": { type: "strings", value: names },
    "tokenizer.ggml.token_type": { type: "i32s", value: types },
  } as const;
}

/**
 * llama.cpp joins the neighbours whose joint token has the highest score, whichever two they are. That is the order of the merges where
 * those of a token follow one another, and none of its ways of being cut in two is missing. Runs of spaces are the exception: in Llama 2
 * they come last with equal scores, and every GGUF file of it cuts long ones as SentencePiece does, from the left.
 */
function scores(definition: TokenizerDefinition, vocabSize: number): number[] {
  const ids = vocabEntries(definition);
  const special = new Set(definition.added_tokens.map(({ id }) => id));
  const order = new Map<string, number>();
  const known = new Set<string>();
  const runs = new Set<string>();
  let last: string | undefined;
  for (const [left, right] of mergePairs(definition)) {
    known.add(`${left} ${right}`);
    const token = left + right;
    if (token === last) continue;
    last = token;
    if (order.has(token)) runs.add(token);
    else order.set(token, order.size);
    if (runs.size > 0 && !isSpaces(token))
      throw new GgufError(
        `llama.cpp joins by the scores of tokens, and in this tokenizer other merges come between those to "${[...runs][0]}"`,
      );
  }
  for (const run of runs) order.delete(run);
  const result = new Array<number>(vocabSize).fill(-vocabSize);
  for (const [token, id] of ids) {
    result[id] = -(order.get(token) ?? vocabSize);
    if (special.has(id)) continue;
    const characters = Array.from(token);
    for (let at = 1; at < characters.length; at++) {
      const [left, right] = [characters.slice(0, at).join(""), characters.slice(at).join("")];
      if (ids.has(left) && ids.has(right) && !known.has(`${left} ${right}`))
        throw new GgufError(
          `llama.cpp would join "${left}" and "${right}" to "${token}", which is no merge of this tokenizer`,
        );
    }
  }
  return result;
}

const isSpaces = (token: string): boolean => /^▁+$/.test(token);

/** Whether the tokenizer itself puts its first special token before a text. */
function beginsWithBos({ post_processor, added_tokens }: TokenizerDefinition, bosTokenId: number | undefined): boolean {
  const bos = added_tokens.find(({ id }) => id === bosTokenId)?.content;
  const steps = post_processor?.type === "Sequence" ? (post_processor.processors as unknown[]) : [post_processor];
  return steps.some((step) => {
    const single = (step as { single?: { SpecialToken?: { id: string } }[] } | null)?.single;
    return bos !== undefined && single?.[0]?.SpecialToken?.id === bos;
  });
}
