import { ChatTemplate } from "../text/chat-template.js";
import { HuggingFaceTokenizer } from "../text/hf-tokenizer.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { DataError } from "./errors.js";

/** One message of a conversation. */
export interface ChatMessage {
  role: string;
  content: string;
}

/** A prompt and what should follow, or messages, of which those of the assistant are learnt. */
export type Conversation = { prompt: string; completion: string } | { messages: readonly ChatMessage[] };

/** Undefined unless `row` is `{ prompt, completion }` or `{ messages: [{ role, content }, …] }`. */
export function parseConversation(row: unknown): Conversation | undefined {
  const { prompt, completion, messages } = (typeof row === "object" && row !== null ? row : {}) as Record<
    string,
    unknown
  >;
  if (typeof prompt === "string" && typeof completion === "string") return { prompt, completion };
  const isMessage = (each: unknown): each is ChatMessage =>
    typeof each === "object" &&
    each !== null &&
    typeof (each as ChatMessage).role === "string" &&
    typeof (each as ChatMessage).content === "string";
  return Array.isArray(messages) && messages.length > 0 && messages.every(isMessage) ? { messages } : undefined;
}

/** All that is said in a conversation. */
export function textOfConversation(conversation: Conversation): string {
  if ("messages" in conversation) return conversation.messages.map(({ content }) => content).join("\n");
  return `${conversation.prompt}\n${conversation.completion}`;
}

/** Conversations as tokens, and for each token whether it is to be learnt: the assistant's, ends of its turns included. */
export class ChatEncoder {
  readonly #tokenizer: Tokenizer;
  readonly #template: ChatTemplate | undefined;

  /** @throws TokenizerError when the tokenizer's chat template does not parse */
  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
    this.#template = ChatTemplate.of(tokenizer);
  }

  /** @throws DataError `DATA_INVALID_JSONL` for messages that the template cannot render turn by turn */
  encode({ path, conversation }: { path: string; conversation?: Conversation }): { tokens: number[]; learn: number[] } {
    if (!conversation) throw new DataError("DATA_INVALID_JSONL", `${path}: conversations are lines of a .jsonl file`);
    const tokens: number[] = [];
    const learn: number[] = [];
    const append = (ids: Iterable<number>, learnt: boolean) => {
      for (const id of ids) {
        tokens.push(id);
        learn.push(Number(learnt));
      }
    };
    if ("messages" in conversation) {
      for (const { ids, learnt } of this.#encodeStretches(this.#stretches(path, conversation.messages)))
        append(ids, learnt);
      return { tokens, learn };
    }
    const { bosTokenId, eosTokenId } = this.#tokenizer;
    if (bosTokenId !== undefined) append([bosTokenId], false);
    append(this.#tokenizer.encode(conversation.prompt), false);
    append(this.#tokenizer.encode(conversation.completion), true);
    if (eosTokenId !== undefined) append([eosTokenId], true);
    return { tokens, learn };
  }

  /**
   * The tokens of the whole text, so that they are those that a rendered prompt has and an answer follows: a tokenizer that marks the
   * beginning of its text, as SentencePiece's do, would mark each stretch. Where a token reaches over a cut, stretch by stretch.
   */
  #encodeStretches(stretches: readonly { text: string; learnt: boolean }[]): { ids: Int32Array; learnt: boolean }[] {
    const encode = (text: string) => this.#tokenizer.encode(text, { specialTokens: true });
    const apart = () => stretches.map(({ text, learnt }) => ({ ids: encode(text), learnt }));
    // Bytes come out alike either way.
    if (!(this.#tokenizer instanceof HuggingFaceTokenizer)) return apart();
    const whole = encode(stretches.map(({ text }) => text).join(""));
    let text = "";
    let from = 0;
    const cut: { ids: Int32Array; learnt: boolean }[] = [];
    for (const [i, stretch] of stretches.entries()) {
      text += stretch.text;
      const before = i + 1 < stretches.length ? encode(text) : whole;
      if (before.length < from || before.some((id, at) => id !== whole[at])) return apart();
      cut.push({ ids: whole.subarray(from, before.length), learnt: stretch.learnt });
      from = before.length;
    }
    return cut;
  }

  /** The rendered conversation, cut where the assistant begins and ends to speak. */
  #stretches(path: string, messages: readonly ChatMessage[]): { text: string; learnt: boolean }[] {
    const invalid = (reason: string, cause?: unknown) =>
      new DataError("DATA_INVALID_JSONL", `${path}: ${reason}`, { cause });
    if (!this.#template) {
      throw invalid(
        "the tokenizer has no chat_template to render messages with: give prompt and completion, or add a template to tokenizer_config.json or chat_template.jinja",
      );
    }
    const render = (count: number, open: boolean): string => {
      try {
        return this.#template!.render(messages.slice(0, count), open);
      } catch (cause) {
        throw invalid(`the chat template refuses the messages (${String(cause)})`, cause);
      }
    };
    const whole = render(messages.length, false);
    const stretches: { text: string; learnt: boolean }[] = [];
    let at = 0;
    for (const [i, { role }] of messages.entries()) {
      if (role !== "assistant") continue;
      const [before, after] = [render(i, true), render(i + 1, false)];
      if (!whole.startsWith(before) || !whole.startsWith(after) || after.length < before.length)
        throw invalid("the chat template renders a turn differently when others follow: give prompt and completion");
      stretches.push({ text: whole.slice(at, before.length), learnt: false });
      stretches.push({ text: whole.slice(before.length, after.length), learnt: true });
      at = after.length;
    }
    if (stretches.length === 0) throw invalid('there is no message with the role "assistant" to learn');
    stretches.push({ text: whole.slice(at), learnt: false });
    return stretches.filter(({ text }) => text !== "");
  }
}
