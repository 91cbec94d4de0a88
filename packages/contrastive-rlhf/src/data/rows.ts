import { ChatTemplate, type Tokenizer } from "@trefoil/core";
import { type ChatMessage, parseMessages } from "./chat.js";
import { type JsonRow, parseRows, RowProblem } from "./json-lines.js";

/** A prompt as text. */
export interface PromptText {
  line: number;
  prompt: string;
  /** Special tokens written in the texts are tokens: they came from a chat template. */
  templated: boolean;
  /** All fields of the row, for reward functions. */
  row: Readonly<Record<string, unknown>>;
}

export interface DemonstrationText extends PromptText {
  completion: string;
  /** Whether the completion ends there, or was cut off; an end when it is not said. */
  ended?: boolean;
}

export interface PreferenceText extends PromptText {
  chosen: string;
  rejected: string;
  /** How much better the chosen response is said to be. */
  margin: number | undefined;
  /** Which responses end, as against those cut off at a limit of length; both do when it is not said. */
  ended?: { chosen: boolean; rejected: boolean };
}

/** Rows with `prompt`: a string or chat messages; other fields are kept for reward functions. @throws RlhfError `RLHF_DATA` */
export async function readPrompts(path: string, tokenizer: Tokenizer): Promise<PromptText[]> {
  const texts = new RowTexts(tokenizer);
  return await parseRows(path, (row) => texts.prompt(row));
}

/** Rows with `prompt` and `completion`, or preference rows, whose chosen responses are then taken. @throws RlhfError `RLHF_DATA` */
export async function readDemonstrations(path: string, tokenizer: Tokenizer): Promise<DemonstrationText[]> {
  const texts = new RowTexts(tokenizer);
  return await parseRows(path, (row) => {
    if (row.value.completion === undefined && row.value.chosen !== undefined) {
      const { chosen, ended, ...rest } = texts.preference(row);
      return { ...rest, completion: chosen, ...(ended && { ended: ended.chosen }) };
    }
    return { ...texts.prompt(row), completion: texts.completion(row, "completion") };
  });
}

/**
 * Rows with `chosen` and `rejected`, `prompt` explicit or their common beginning, and optional `margin`, `chosen_ended` and
 * `rejected_ended`: false for a response that was cut off. @throws RlhfError `RLHF_DATA`
 */
export async function readPreferences(path: string, tokenizer: Tokenizer): Promise<PreferenceText[]> {
  const texts = new RowTexts(tokenizer);
  return await parseRows(path, (row) => texts.preference(row));
}

class RowTexts {
  readonly #template: ChatTemplate | undefined;

  constructor(tokenizer: Tokenizer) {
    this.#template = ChatTemplate.of(tokenizer);
  }

  prompt({ line, value: row }: JsonRow): PromptText {
    const { prompt } = row;
    if (prompt === undefined) throw new RowProblem('there is no "prompt"');
    if (typeof prompt === "string") {
      if (prompt.trim() === "") throw new RowProblem('"prompt" is empty');
      return { line, prompt, templated: false, row };
    }
    return { line, prompt: this.#render(parseMessages(prompt, "prompt"), true), templated: true, row };
  }

  completion({ value: row }: JsonRow, field: "completion" | "chosen" | "rejected"): string {
    const value = row[field];
    if (value === undefined) throw new RowProblem(`there is no "${field}"`);
    if (typeof value === "string") {
      if (typeof row.prompt !== "string")
        throw new RowProblem(`"${field}" is text but "prompt" is not: use messages for both`);
      if (value === "") throw new RowProblem(`"${field}" is empty`);
      return value;
    }
    if (!Array.isArray(value)) throw new RowProblem(`"${field}" must be a string or a list of chat messages`);
    if (typeof row.prompt === "string")
      throw new RowProblem(`"${field}" is a list of messages but "prompt" is text: use messages for both`);
    return this.#rest(parseMessages(row.prompt, "prompt"), parseMessages(value, field), field);
  }

  preference(source: JsonRow): PreferenceText {
    const row = source.value.prompt === undefined ? withPrompt(source) : source;
    const prompt = this.prompt(row);
    const chosen = this.completion(row, "chosen");
    const rejected = this.completion(row, "rejected");
    if (chosen === rejected) throw new RowProblem('"chosen" and "rejected" are the same: there is nothing to prefer');
    const { margin } = source.value;
    if (margin !== undefined && (typeof margin !== "number" || !Number.isFinite(margin)))
      throw new RowProblem('"margin" must be a number');
    const ended = { chosen: endedField(source, "chosen"), rejected: endedField(source, "rejected") };
    return { ...prompt, chosen, rejected, margin, ended };
  }

  /** What the template adds to the prompt for the answer. */
  #rest(prompt: ChatMessage[], answer: ChatMessage[], field: string): string {
    const before = this.#render(prompt, true);
    const whole = this.#render([...prompt, ...answer], false);
    if (!whole.startsWith(before))
      throw new RowProblem(
        `the chat template does not continue the prompt by "${field}"; join them into texts yourself`,
      );
    return whole.slice(before.length);
  }

  #render(messages: ChatMessage[], addGenerationPrompt: boolean): string {
    if (!this.#template)
      throw new RowProblem(
        "chat messages need a chat template (chat_template.jinja, or chat_template in tokenizer_config.json); this tokenizer has none",
      );
    try {
      return this.#template.render(messages, addGenerationPrompt);
    } catch (error) {
      throw new RowProblem(
        `the chat template refuses the messages: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }
}

function endedField({ value }: JsonRow, response: "chosen" | "rejected"): boolean {
  const field = `${response}_ended`;
  const ended = value[field] ?? true;
  if (typeof ended !== "boolean") throw new RowProblem(`"${field}" must be true or false`);
  return ended;
}

/** A row without a prompt: the common beginning of both responses becomes one. */
function withPrompt({ line, value }: JsonRow): JsonRow {
  const { chosen, rejected } = value;
  if (typeof chosen === "string" && typeof rejected === "string") {
    const at = commonText(chosen, rejected);
    return {
      line,
      value: { ...value, prompt: chosen.slice(0, at), chosen: chosen.slice(at), rejected: rejected.slice(at) },
    };
  }
  const [a, b] = [parseMessages(chosen, "chosen"), parseMessages(rejected, "rejected")];
  let same = 0;
  while (
    same < Math.min(a.length, b.length) - 1 &&
    a[same]!.role === b[same]!.role &&
    a[same]!.content === b[same]!.content
  )
    same++;
  if (same === 0) throw new RowProblem('there is no "prompt", and "chosen" and "rejected" have no message in common');
  return { line, value: { ...value, prompt: a.slice(0, same), chosen: a.slice(same), rejected: b.slice(same) } };
}

/** Where two dialogues part: after the last `Assistant:` they share (Anthropic's HH), else after the last white space. */
function commonText(a: string, b: string): number {
  let same = 0;
  while (same < Math.min(a.length, b.length) && a[same] === b[same]) same++;
  const shared = a.slice(0, same);
  const marker = "Assistant:";
  const turn = shared.lastIndexOf(marker);
  if (turn >= 0) return turn + marker.length;
  const space = shared.search(/\s\S*$/);
  if (space < 0) throw new RowProblem('there is no "prompt", and "chosen" and "rejected" have no beginning in common');
  return space + 1;
}
