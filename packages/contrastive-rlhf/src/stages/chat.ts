import { ChatTemplate, Generator } from "@trefoil/core";
import { type ChatMessage, EpisodeEncoder } from "../data/index.js";
import { OpenPolicy } from "../models/index.js";

export interface ChatOptions {
  /** Folder of the policy. */
  policy: string;
  /** 0 is greedy. */
  temperature: number;
  /** Tokens are drawn from the smallest set of this probability; 1: from all. */
  topP: number;
  /** Length of a response, at most. */
  maxNewTokens: number;
  /** Of the first response; each further one adds 1. */
  seed: number;
}

export interface ReplyOptions {
  signal?: AbortSignal;
  /** Given what is new of a response as it comes. */
  onText?: (text: string) => void;
}

/**
 * A conversation with a policy. With a chat template it goes on from reply to reply; without one every text is a prompt of its own.
 * Frees the policy when it goes out of scope.
 */
export class Conversation implements Disposable {
  readonly #options: ChatOptions;
  readonly #policy: OpenPolicy;
  readonly #generator: Generator;
  readonly #encoder: EpisodeEncoder;
  readonly #template: ChatTemplate | undefined;
  #history: ChatMessage[] = [];
  #seed: number;

  /** @param policy taken over */
  constructor(policy: OpenPolicy, options: ChatOptions) {
    const { model, tokenizer, eosTokenIds } = policy;
    this.#options = options;
    this.#policy = policy;
    this.#generator = new Generator(model, 1, model.config.maxPositions);
    this.#encoder = new EpisodeEncoder(tokenizer, eosTokenIds, model.config.maxPositions);
    this.#template = ChatTemplate.of(tokenizer);
    this.#seed = options.seed;
  }

  /** @throws RlhfError `RLHF_DATA` when the conversation does not fit into the context any more */
  async reply(text: string, { signal, onText }: ReplyOptions = {}): Promise<string> {
    const { temperature, topP, maxNewTokens } = this.#options;
    const { tokenizer, eosTokenIds } = this.#policy;
    const messages = [...this.#history, { role: "user", content: text }];
    const prompt = this.#template ? this.#template.render(messages, true) : text;
    const templated = this.#template !== undefined;
    const tokens = this.#encoder.prompt({ line: 1, prompt, templated, row: {} }, maxNewTokens);
    // A character may take several tokens: what is told is what the whole says more than before.
    const drawn: number[] = [];
    let told = "";
    const onToken = (_: number, token: number): void => {
      drawn.push(token);
      const whole = tokenizer.decode(drawn);
      if (whole.endsWith("\ufffd") || !whole.startsWith(told)) return;
      onText?.(whole.slice(told.length));
      told = whole;
    };
    const seed = this.#seed++;
    const drawing = { maxNewTokens, temperature, topP, eosTokenIds, seed, onToken, ...(signal && { signal }) };
    const [answer] = await this.#generator.generate([tokens], drawing);
    const content = tokenizer.decode(answer!.tokens);
    this.#history = [...messages, { role: "assistant", content }];
    return content;
  }

  /** Forgets what was said. */
  reset(): void {
    this.#history = [];
  }

  [Symbol.dispose](): void {
    this.#generator[Symbol.dispose]();
    this.#policy[Symbol.dispose]();
  }
}

/** Opens a policy to talk to. @throws ModelFolderError, TokenizerError, RlhfError `RLHF_TOKENIZER` */
export async function chat(options: ChatOptions): Promise<Conversation> {
  return new Conversation(await OpenPolicy.open(options.policy), options);
}
