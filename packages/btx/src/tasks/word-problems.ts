import type { Question } from "./question.js";

const people = ["Ann", "Ben", "Eva", "Tom"];
const things = ["apples", "books", "coins", "stamps"];

/** What happens to a number of things, in words, and what comes of it. */
const stories: readonly { text: (who: string, what: string, a: number, b: number) => string; result: Operation }[] = [
  { text: (who, what, a, b) => `${who} has ${a} ${what} and gets ${b} more.`, result: (a, b) => a + b },
  { text: (who, what, a, b) => `${who} has ${a + b} ${what} and gives ${b} away.`, result: (a) => a },
  { text: (who, what, a, b) => `${who} has ${a} boxes of ${b} ${what} each.`, result: (a, b) => a * b },
  {
    text: (who, what, a, b) => `${who} puts ${a * b} ${what} into ${a} equal bags and keeps one.`,
    result: (_, b) => b,
  },
];
type Operation = (a: number, b: number) => number;

/** 1,296 stories that ask for one sum, difference, product or quotient of small numbers. */
export function wordProblems(): Question[] {
  const questions: Question[] = [];
  for (const [kind, { text, result }] of stories.entries()) {
    for (let a = 2; a <= 19; a++) {
      for (let b = 2; b <= 19; b++) {
        const index = kind + 5 * a + 7 * b;
        const [who, what] = [people[index % people.length]!, things[(a + b) % things.length]!];
        const prompt = `${text(who, what, a, b)} How many ${what} has ${who} now? `;
        questions.push({ prompt, answer: String(result(a, b)) });
      }
    }
  }
  return questions;
}
