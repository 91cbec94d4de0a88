import { heldOutProblems, solvedExamples } from "../domains/arithmetic.js";
import { inHashOrder, isHeldOutPrompt } from "../domains/documents.js";
import { facts } from "./facts.js";
import { programs } from "./programs.js";
import type { Question } from "./question.js";
import { wordProblems } from "./word-problems.js";

/** Questions whose answers a program can check. */
export interface Task {
  readonly name: string;
  /** Solved questions that stand before each prompt, never among those asked. */
  readonly examples: readonly Question[];
  readonly questions: readonly Question[];
}

export const taskNames = ["arithmetic", "word-problems", "programs", "facts"] as const;
export type TaskName = (typeof taskNames)[number];

/**
 * A task's questions in an order that is the same everywhere and favours none.
 * @param options `count`: questions at most; `heldOutShare`: of problems and programs, the share that is held out of the built-in training text, and asked; `shots`: solved examples before each question, default 4
 */
export function makeTask(
  name: TaskName,
  { count, heldOutShare, shots = 4 }: { count: number; heldOutShare: number; shots?: number },
): Task {
  if (name === "arithmetic")
    return { name, examples: solvedExamples(heldOutShare, shots), questions: heldOutProblems(heldOutShare, count) };
  const all = { "word-problems": wordProblems, programs, facts }[name]();
  const ordered = inHashOrder(all, ({ prompt }) => prompt);
  // All facts are held out in the words in which they are asked. Up to four examples leave the questions the same.
  if (name === "facts") {
    const first = Math.max(shots, 4);
    return { name, examples: ordered.slice(0, shots), questions: ordered.slice(first, first + count) };
  }
  const isHeldOut = ({ prompt }: Question) => isHeldOutPrompt(prompt, heldOutShare);
  const examples = ordered.filter((question) => !isHeldOut(question)).slice(0, shots);
  return { name, examples, questions: ordered.filter(isHeldOut).slice(0, count) };
}

/** Whether a model's line answers a question. */
export function isRight(question: Question, line: string): boolean {
  const given = line.trim();
  return given === question.answer || (question.accepts?.(given) ?? false);
}
