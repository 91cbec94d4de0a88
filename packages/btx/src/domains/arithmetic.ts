import { type Document, hashFraction, type Split } from "./documents.js";

/** A problem with one right answer. */
export interface Problem {
  /** What the model is given: `37+58=`. */
  readonly prompt: string;
  /** What it must write: `95`. */
  readonly answer: string;
}

/** Sums and differences of numbers below 100 (differences not negative), products of one-digit numbers: 15,150 problems. */
export function allProblems(): Problem[] {
  const problems: Problem[] = [];
  for (let a = 0; a < 100; a++) {
    for (let b = 0; b < 100; b++) {
      problems.push({ prompt: `${a}+${b}=`, answer: String(a + b) });
      if (a >= b) problems.push({ prompt: `${a}-${b}=`, answer: String(a - b) });
      if (a < 10 && b < 10) problems.push({ prompt: `${a}*${b}=`, answer: String(a * b) });
    }
  }
  return problems;
}

/** Whether a problem belongs to the held-out side. Products, of which there are only 100, are all trained on. */
export function isHeldOutProblem({ prompt }: Problem, heldOutShare: number): boolean {
  return !prompt.includes("*") && hashFraction(prompt) < heldOutShare;
}

const linesPerDocument = 64;

/** Lines such as `37+58=95`, drawn from one side's problems; no problem is on both sides. */
export function arithmeticSplit(options: { trainBytes: number; heldOutShare: number; seed: number }): Split {
  const { trainBytes, heldOutShare, seed } = options;
  const problems = allProblems();
  const draw = (side: readonly Problem[], bytes: number, stream: number): Document[] => {
    const random = mulberry32(seed * 2 + stream);
    const documents: Document[] = [];
    for (let written = 0; written < bytes; ) {
      let text = "";
      for (let line = 0; line < linesPerDocument; line++) {
        const { prompt, answer } = side[Math.floor(random() * side.length)]!;
        text += `${prompt}${answer}\n`;
      }
      documents.push({ source: `arithmetic-${documents.length}`, text });
      written += text.length;
    }
    return documents;
  };
  const heldOut = problems.filter((problem) => isHeldOutProblem(problem, heldOutShare));
  const train = problems.filter((problem) => !isHeldOutProblem(problem, heldOutShare));
  return { train: draw(train, trainBytes, 0), heldOut: draw(heldOut, trainBytes * heldOutShare, 1) };
}

/** Held-out problems for exact match, in an order that does not favour small numbers. */
export function heldOutProblems(heldOutShare: number, count: number): Problem[] {
  return allProblems()
    .filter((problem) => isHeldOutProblem(problem, heldOutShare))
    .map((problem) => ({ problem, key: hashFraction(`order ${problem.prompt}`) }))
    .sort((a, b) => a.key - b.key)
    .slice(0, count)
    .map(({ problem }) => problem);
}

/** Uniform numbers on [0, 1) from a 32-bit state (mulberry32). */
export function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
