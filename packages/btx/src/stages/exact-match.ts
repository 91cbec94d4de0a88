import { type CausalLM, Generator, type Tokenizer } from "@trefoil/core";
import { heldOutProblems, solvedExamples } from "../domains/index.js";

/** Solved problems that stand before the question, as lines do in the training text. */
const examplesBefore = 4;
/** Of the longest answer and its line feed, and one more. */
const maxNewTokens = 5;

/** One question, what the model answered, and whether that is right. */
export interface Answer {
  prompt: string;
  expected: string;
  answer: string;
  correct: boolean;
}

export interface ExactMatchOptions {
  /** Problems, none of which was trained on. */
  count: number;
  /** The share that was held out when the training text was made. */
  heldOutShare: number;
  /** Problems answered at a time. Default 32. */
  batch?: number;
  signal?: AbortSignal;
}

/** Greedy answers to held-out arithmetic problems; right is a whole line that equals the answer. */
export async function answerArithmetic(
  model: CausalLM,
  tokenizer: Tokenizer,
  options: ExactMatchOptions,
): Promise<Answer[]> {
  const { count, heldOutShare, batch = 32, signal } = options;
  const problems = heldOutProblems(heldOutShare, count);
  const examples = solvedExamples(heldOutShare, examplesBefore);
  const endOfLine = tokenizer.encode("\n").at(-1)!;
  const longest = Math.max(...problems.map(({ prompt }) => tokenizer.encode(examples + prompt).length));
  using generator = new Generator(model, batch, longest + maxNewTokens);
  const answers: Answer[] = [];
  for (let from = 0; from < problems.length; from += batch) {
    signal?.throwIfAborted();
    const asked = problems.slice(from, from + batch);
    // The last batch is filled up with its first question.
    const prompts = Array.from({ length: batch }, (_, i) =>
      tokenizer.encode(examples + (asked[i] ?? asked[0]!).prompt),
    );
    const generated = await generator.generate(prompts, { maxNewTokens, temperature: 0, eosTokenIds: [endOfLine] });
    asked.forEach(({ prompt, answer: expected }, i) => {
      const { tokens, finished } = generated[i]!;
      const answer = tokenizer.decode(tokens).split("\n")[0]!;
      answers.push({ prompt, expected, answer, correct: finished && answer === expected });
    });
  }
  return answers;
}

/** Share of right answers, 0 to 1. */
export const exactMatch = (answers: readonly Answer[]): number =>
  answers.filter(({ correct }) => correct).length / Math.max(1, answers.length);
