import type { Tokenizer } from "@trefoil/core";
import { RlhfError } from "../errors.js";
import type { Episode } from "../models/index.js";
import { listOf } from "./json-lines.js";
import type { DemonstrationText, PreferenceText, PromptText } from "./rows.js";

export interface PromptTokens extends PromptText {
  tokens: Int32Array;
}

export interface PreferenceEpisodes {
  line: number;
  chosen: Episode;
  rejected: Episode;
  margin: number;
}

/** What `encode` makes of each row; what it refuses is told at once. */
function everyRow<T, R>(rows: readonly T[], encode: (row: T) => R): R[] {
  const encoded: R[] = [];
  const problems: string[] = [];
  for (const row of rows) {
    try {
      encoded.push(encode(row));
    } catch (error) {
      if (!(error instanceof RlhfError)) throw error;
      problems.push(error.message);
    }
  }
  if (problems.length > 0) throw new RlhfError("RLHF_DATA", listOf(problems));
  return encoded;
}

/** One list behind the other. A text may have more tokens than a call may have arguments. */
export function joined(first: ArrayLike<number>, second: ArrayLike<number>): Int32Array {
  const all = new Int32Array(first.length + second.length);
  all.set(first);
  all.set(second, first.length);
  return all;
}

/** Texts to token ids for one model: begin token before prompts, end token after responses that end, lengths checked. */
export class EpisodeEncoder {
  /** Responses that were cut to fit; their ends are lost. */
  truncated = 0;
  readonly #tokenizer: Tokenizer;
  /** Ids that end a response; the first is what is written behind one. */
  readonly #ends: readonly number[];
  /** Tokens of prompt and response together. */
  readonly maxLength: number;
  readonly #limit: string;

  /**
   * @param context of the model, in tokens
   * @param maxLength of prompt and response together, where that may be less
   */
  constructor(tokenizer: Tokenizer, eosTokenIds: readonly number[], context: number, maxLength = context) {
    this.#tokenizer = tokenizer;
    this.#ends = eosTokenIds;
    this.maxLength = Math.min(context, maxLength);
    this.#limit = maxLength < context ? `maxLength, ${maxLength}` : `the model's context of ${context}`;
  }

  /** @throws RlhfError `RLHF_DATA` when `room` tokens do not fit behind it */
  prompt({ line, prompt, templated }: PromptText, room = 1): Int32Array {
    const ids = this.#tokenizer.encode(prompt, { specialTokens: templated });
    const { bosTokenId } = this.#tokenizer;
    const tokens = bosTokenId === undefined || (templated && ids[0] === bosTokenId) ? ids : joined([bosTokenId], ids);
    if (tokens.length === 0) throw new RlhfError("RLHF_DATA", `row ${line}: the prompt has no tokens`);
    if (tokens.length + room > this.maxLength) {
      throw new RlhfError(
        "RLHF_DATA",
        `row ${line}: the prompt has ${tokens.length} tokens; with ${room} for the response it exceeds ${this.#limit}. Shorten it, ${room > 1 ? "lower maxNewTokens, " : ""}or leave it out`,
      );
    }
    return tokens;
  }

  /**
   * @param room for responses, `maxNewTokens`
   * @throws RlhfError `RLHF_OPTIONS` when no prompt fits beside responses, `RLHF_DATA` naming every row that does not (the first twenty)
   */
  prompts(rows: readonly PromptText[], room: number): PromptTokens[] {
    if (room >= this.maxLength) {
      throw new RlhfError(
        "RLHF_OPTIONS",
        `maxNewTokens is ${room}, which leaves no room for a prompt in ${this.#limit}: lower it`,
      );
    }
    return everyRow(rows, (row) => ({ ...row, tokens: this.prompt(row, room) }));
  }

  /** @throws RlhfError `RLHF_DATA` as `prompts` does */
  demonstrations(rows: readonly DemonstrationText[]): Episode[] {
    return everyRow(rows, (row) => this.demonstration(row));
  }

  /** @throws RlhfError `RLHF_DATA` as `prompts` does */
  preferences(rows: readonly PreferenceText[]): PreferenceEpisodes[] {
    return everyRow(rows, (row) => this.preference(row));
  }

  demonstration(row: DemonstrationText): Episode {
    return this.#episode(this.prompt(row), row.completion, row);
  }

  /** @throws RlhfError `RLHF_DATA` when nothing is left to tell the responses apart */
  preference(row: PreferenceText): PreferenceEpisodes {
    const prompt = this.prompt(row);
    const { templated, ended = { chosen: true, rejected: true } } = row;
    const chosen = this.#episode(prompt, row.chosen, { templated, ended: ended.chosen });
    const rejected = this.#episode(prompt, row.rejected, { templated, ended: ended.rejected });
    if (chosen.response.join() === rejected.response.join()) {
      throw new RlhfError(
        "RLHF_DATA",
        `row ${row.line}: cut to ${this.maxLength} tokens, chosen and rejected are the same. Raise maxLength, or leave the row out`,
      );
    }
    return { line: row.line, chosen, rejected, margin: row.margin ?? 0 };
  }

  #episode(
    prompt: Int32Array,
    text: string,
    { templated, ended = true }: Pick<DemonstrationText, "templated" | "ended">,
  ): Episode {
    const ids = this.#tokenizer.encode(text, { specialTokens: templated });
    // A chat template may have ended the response already, with white space behind the end.
    const end = ids.findLastIndex((id) => this.#ends.includes(id));
    const room = this.maxLength - prompt.length;
    let response = ids;
    if (templated && end >= 0) response = ids.slice(0, ended ? end + 1 : end);
    else if (ended) response = joined(ids, [this.#ends[0]!]);
    if (response.length > room) this.truncated++;
    return { prompt, response: response.slice(0, room) };
  }
}
