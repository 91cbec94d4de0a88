import { type CausalLM, Generator, type Tokenizer } from "@trefoil/core";
import { isRight, type Question, type Task } from "../tasks/index.js";

/** One question, what the model answered, and whether that is right. */
export interface Answer {
  prompt: string;
  expected: string;
  answer: string;
  correct: boolean;
}

export interface ExactMatchOptions {
  /** Questions answered at a time. Default 32. */
  batch?: number;
  signal?: AbortSignal;
}

/**
 * Greedy answers to a task's questions, after its solved examples: as many of them as fit into the model's context. An answer is the
 * line that the model writes. Undefined when not even a question alone fits.
 */
export async function answerTask(
  model: CausalLM,
  tokenizer: Tokenizer,
  { examples, questions }: Task,
  { batch = 32, signal }: ExactMatchOptions = {},
): Promise<Answer[] | undefined> {
  const tokensIn = (text: string) => tokenizer.encode(text).length;
  const longest = (lengths: readonly number[]) => Math.max(0, ...lengths);
  // The longest right answer, its line feed, and one more.
  const maxNewTokens = longest([...examples, ...questions].map(({ answer }) => tokensIn(`${answer}\n`))) + 1;
  const solved = examples.map(({ prompt, answer }) => `${prompt}${answer}\n`);
  const lengthWith = (shots: number) =>
    longest(questions.map(({ prompt }) => tokensIn(solved.slice(0, shots).join("") + prompt))) + maxNewTokens;
  let shots = solved.length;
  while (shots > 0 && lengthWith(shots) > model.config.maxPositions) shots--;
  const length = lengthWith(shots);
  if (length > model.config.maxPositions) return undefined;

  const before = solved.slice(0, shots).join("");
  const endOfLine = tokenizer.encode("\n").at(-1)!;
  using generator = new Generator(model, batch, length);
  const answers: Answer[] = [];
  for (let from = 0; from < questions.length; from += batch) {
    signal?.throwIfAborted();
    const asked = questions.slice(from, from + batch);
    // The last batch is filled up with its first question.
    const prompts = Array.from({ length: batch }, (_, i) => tokenizer.encode(before + (asked[i] ?? asked[0]!).prompt));
    const generated = await generator.generate(prompts, { maxNewTokens, temperature: 0, eosTokenIds: [endOfLine] });
    answers.push(...asked.map((question, i) => answerOf(question, tokenizer.decode(generated[i]!.tokens))));
  }
  return answers;
}

/** A line that does not end within the longest answer's length is none. */
function answerOf(question: Question, written: string): Answer {
  const end = written.indexOf("\n");
  const answer = end < 0 ? written : written.slice(0, end);
  return { prompt: question.prompt, expected: question.answer, answer, correct: end >= 0 && isRight(question, answer) };
}

/** Share of right answers, 0 to 1. */
export const exactMatch = (answers: readonly Answer[]): number =>
  answers.filter(({ correct }) => correct).length / Math.max(1, answers.length);
