import { runProgram } from "./interpreter.js";
import type { Question } from "./question.js";

/** A function of x in words, and one program that computes it. */
type Sketch = readonly [words: string, program: string];

const inputs = [-7, -1, 0, 1, 2, 3, 10, 25];
const constants = [2, 3, 4, 5, 6, 7, 8, 9, 10, 12];

const sketches = (n: number, m: number): Sketch[] => [
  [`x times ${n}, plus ${m}`, `return x * ${n} + ${m};`],
  [`x minus ${n}, times ${m}`, `return (x - ${n}) * ${m};`],
  [`the larger of x and ${n}, plus ${m}`, `return max(x, ${n}) + ${m};`],
  [`${n} where x is below ${m}, else x`, `if x < ${m} { return ${n}; } return x;`],
  [`the distance of x from ${n}, times ${m}`, `return abs(x - ${n}) * ${m};`],
  [
    `the sum of all from ${n} to x, in steps of ${m}`,
    `s = 0; i = ${n}; while i <= x { s = s + i; i = i + ${m}; } return s;`,
  ],
];

/**
 * Functions to be written as one line of the language of `runProgram`. Right is any line that computes the same for every input tried; it
 * is run in that interpreter, with its limits.
 */
export function programs(): Question[] {
  return constants.flatMap((n) =>
    constants.flatMap((m) =>
      sketches(n, m).map(([words, program]) => ({
        prompt: `# f(x) is ${words}\n`,
        answer: program,
        accepts: (line: string) => inputs.every((x) => agree(line, program, x)),
      })),
    ),
  );
}

function agree(line: string, program: string, x: number): boolean {
  const [given, wanted] = [runProgram(line, { x }), runProgram(program, { x })];
  return given.ok && wanted.ok && given.value === wanted.value;
}
