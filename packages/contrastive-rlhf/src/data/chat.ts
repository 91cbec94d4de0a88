import { Template } from "@huggingface/jinja";
import type { Tokenizer } from "@trefoil/core";
import { RlhfError } from "../errors.js";
import { RowProblem } from "./json-lines.js";

export interface ChatMessage {
  role: string;
  content: string;
}

/** @throws RowProblem unless `value` is a list of messages with role and content */
export function parseMessages(value: unknown, field: string): ChatMessage[] {
  if (!Array.isArray(value) || value.length === 0)
    throw new RowProblem(`"${field}" must be a string or a list of chat messages`);
  return value.map((message: unknown, i) => {
    const { role, content } = (typeof message === "object" && message !== null ? message : {}) as Record<
      string,
      unknown
    >;
    if (typeof role !== "string" || typeof content !== "string")
      throw new RowProblem(`"${field}"[${i}] needs a role and a content, both strings`);
    return { role, content };
  });
}

/** Chat messages as the text that the tokenizer's chat template makes of them. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #specials: Record<string, string>;

  private constructor(source: string, specials: Record<string, string>) {
    this.#template = new Template(source);
    this.#specials = specials;
  }

  /** Undefined when the tokenizer has no template. @throws RlhfError `RLHF_TOKENIZER` for one that does not parse */
  static of(tokenizer: Tokenizer): ChatTemplate | undefined {
    const source = tokenizer.config.chat_template;
    if (typeof source !== "string") return undefined;
    const special = (name: string): [string, string][] => {
      const value = tokenizer.config[name];
      const content = typeof value === "object" && value !== null ? (value as Record<string, unknown>).content : value;
      return typeof content === "string" ? [[name, content]] : [];
    };
    try {
      return new ChatTemplate(source, Object.fromEntries(["bos_token", "eos_token", "pad_token"].flatMap(special)));
    } catch (cause) {
      throw new RlhfError("RLHF_TOKENIZER", "the tokenizer's chat_template does not parse", { cause });
    }
  }

  render(messages: readonly ChatMessage[], addGenerationPrompt: boolean): string {
    try {
      return this.#template.render({
        ...this.#specials,
        messages: [...messages],
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (error) {
      throw new RowProblem(
        `the chat template refuses the messages: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}
