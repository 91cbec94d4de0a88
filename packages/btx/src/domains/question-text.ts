import { factStatements, facts } from "../tasks/facts.js";
import { programs } from "../tasks/programs.js";
import { wordProblems } from "../tasks/word-problems.js";
import { type GeneratedSides, isHeldOutPrompt } from "./documents.js";

/** Domains whose text is what a task asks, solved. */
export const questionDomains = ["@word-problems", "@programs", "@facts"] as const;
export type QuestionDomain = (typeof questionDomains)[number];

interface Solved {
  readonly prompt: string;
  readonly answer: string;
}
const solved = ({ prompt, answer }: Solved): string => `${prompt}${answer}\n`;

/**
 * Text to learn a task from. Of word problems and programs a share is held out, and it is these that are asked. Facts cannot be found out:
 * training text says each in other sentences, and the sentences that are asked are the held-out side.
 */
export function questionText(domain: QuestionDomain, heldOutShare: number): GeneratedSides {
  const name = domain.slice(1);
  if (domain === "@facts")
    return { name, train: factStatements().map((each) => `${each}\n`), heldOut: facts().map(solved) };
  const questions = domain === "@programs" ? programs() : wordProblems();
  const side = (heldOut: boolean) =>
    questions.filter(({ prompt }) => isHeldOutPrompt(prompt, heldOutShare) === heldOut).map(solved);
  return { name, train: side(false), heldOut: side(true) };
}
