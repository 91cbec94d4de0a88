import { type DomainSplit, drawDocuments, inHashOrder, isHeldOutPrompt } from "./documents.js";

/** A problem with one right answer. */
export interface Problem {
  /** What the model is given: `34+52=`. */
  readonly prompt: string;
  /** What it must write: `86`. */
  readonly answer: string;
}

/**
 * Sums and differences of two-digit numbers without a carry, so that a small model can learn the rule in minutes, and
 * products of one-digit numbers: 4,555 problems.
 */
export function allProblems(): Problem[] {
  const problems: Problem[] = [];
  for (let a = 10; a < 100; a++) {
    for (let b = 10; b < 100; b++) {
      if ((a % 10) + (b % 10) < 10 && a + b < 100) problems.push({ prompt: `${a}+${b}=`, answer: String(a + b) });
      if (a >= b && a % 10 >= b % 10) problems.push({ prompt: `${a}-${b}=`, answer: String(a - b) });
    }
  }
  for (let a = 0; a < 10; a++) {
    for (let b = 0; b < 10; b++) problems.push({ prompt: `${a}*${b}=`, answer: String(a * b) });
  }
  return problems;
}

/**
 * Whether a problem is held out. Products, of which there are only 100, are all trained on: they are facts, not a rule.
 */
export function isHeldOutProblem({ prompt }: Problem, heldOutShare: number): boolean {
  return !prompt.includes("*") && isHeldOutPrompt(prompt, heldOutShare);
}

/**
 * Documents of lines such as `34+52=86`, `bytes` of them in all, the held-out share on top. No problem is on both
 * sides.
 */
export function arithmeticSplit(options: { bytes: number; heldOutShare: number; seed?: number }): DomainSplit {
  const side = (heldOut: boolean) =>
    allProblems()
      .filter((problem) => isHeldOutProblem(problem, options.heldOutShare) === heldOut)
      .map(({ prompt, answer }) => `${prompt}${answer}\n`);
  return drawDocuments({ name: "arithmetic", train: side(false), heldOut: side(true) }, options);
}

/** Up to `count` held-out problems, in an order that does not favour small numbers. */
export function heldOutProblems(heldOutShare: number, count: number): Problem[] {
  const heldOut = allProblems().filter((problem) => isHeldOutProblem(problem, heldOutShare));
  return inHashOrder(heldOut, ({ prompt }) => prompt).slice(0, count);
}

/** Up to `count` problems from the training side, to stand solved before a question as they do in the training text. */
export function solvedExamples(heldOutShare: number, count: number): Problem[] {
  const train = allProblems().filter((problem) => !isHeldOutProblem(problem, heldOutShare));
  return inHashOrder(train, ({ prompt }) => prompt).slice(0, count);
}
