import { Template } from "@huggingface/jinja";
import { TokenizerError } from "./errors.js";
import type { Tokenizer } from "./tokenizer.js";

/** Messages as the text that a tokenizer's chat template makes of them. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #specials: Record<string, string>;

  private constructor(source: string, specials: Record<string, string>) {
    this.#template = new Template(source);
    this.#specials = specials;
  }

  /** Undefined when the tokenizer has no template. @throws TokenizerError `TOKENIZER_INVALID` for one that does not parse */
  static of(tokenizer: Pick<Tokenizer, "config">): ChatTemplate | undefined {
    const source = defaultTemplate(tokenizer.config.chat_template);
    if (source === undefined) return undefined;
    const special = (name: string): [string, string][] => {
      const value = tokenizer.config[name];
      const content = typeof value === "object" && value !== null ? (value as Record<string, unknown>).content : value;
      return typeof content === "string" ? [[name, content]] : [];
    };
    try {
      return new ChatTemplate(source, Object.fromEntries(["bos_token", "eos_token", "pad_token"].flatMap(special)));
    } catch (cause) {
      throw new TokenizerError("TOKENIZER_INVALID", "the tokenizer's chat_template does not parse: correct it", {
        cause,
      });
    }
  }

  /**
   * @param addGenerationPrompt end with the beginning of the assistant's turn
   * @throws Error as the template raises it
   */
  render(messages: readonly { role: string; content: string }[], addGenerationPrompt: boolean): string {
    return this.#template.render({
      ...this.#specials,
      messages: messages.map((message) => ({ ...message })),
      add_generation_prompt: addGenerationPrompt,
    });
  }
}

/** Of several templates, each with a name, transformers takes the one called "default". */
function defaultTemplate(value: unknown): string | undefined {
  if (typeof value === "string") return value;
  const named = (Array.isArray(value) ? value : []) as { name?: unknown; template?: unknown }[];
  const template = named.find((each) => each?.name === "default")?.template;
  return typeof template === "string" ? template : undefined;
}
