import { expect, it } from "vitest";
import { isRight, makeTask, type Outcome, runProgram, taskNames } from "../../src/index.js";

const resultOf = (source: string, x = 0) => {
  const outcome = runProgram(source, { x });
  return outcome.ok ? outcome.value : outcome.reason;
};

it.each([
  ["return 2 + 3 * 4 - 10 / 3;", 11],
  ["return -7 / 2 * 2 + -7 % 2;", -7],
  ["return (1 < 2) + (2 <= 1) + !0 + !5;", 2],
  ["return 0 && 1 / 0 || 3 == 3 && 2 != 1;", 1],
  ["a = 0; b = 1; while x > 0 { t = a + b; a = b; b = t; x = x - 1; } return a;", 55],
  ["l = [3, 1, 2]; push(l, x); l[0] = len(l); return l;", [4, 1, 2, 10]],
  ["if x < 5 { return 1; } else if x < 50 { return max(min(x, 7), abs(-2)); } else { return 3; }", 7],
] as const)("%s is %j", (source, expected) => {
  expect(resultOf(source, 10)).toEqual(expected);
});

const deep = (open: string, middle: string, close: string, count: number) =>
  `return ${open.repeat(count)}${middle}${close.repeat(count)};`;

it.each([
  ["return", "syntax"],
  ["return 1 $ 2;", "syntax"],
  ["while = 3;", "syntax"],
  [`return ${"9".repeat(30)};`, "syntax"],
  [deep("(", "1", ")", 900), "syntax"],
  [deep("-", "1", "", 1500), "syntax"],
  [`${"if 1 {".repeat(330)}`, "syntax"],
  [deep("1+", "1", "", 1_000_000), "syntax"],
  ["return y;", "name"],
  ["return constructor;", "name"],
  ["return __proto__(1);", "name"],
  ["return eval(1);", "name"],
  ["return [1] + 1;", "type"],
  ["return 1[0];", "type"],
  ["return abs(1, 2);", "type"],
  ["return [1][1];", "range"],
  ["l = [1]; l[-1] = 2;", "range"],
  ["return 1 / 0;", "range"],
  ["n = 9; while 1 { n = n * n; }", "range"],
  ["while 1 {}", "steps"],
  ["l = []; while 1 { push(l, 1); }", "steps"],
  ["x = 1;", "no-result"],
])("%s comes to a %s problem", (source, reason) => {
  expect(resultOf(source)).toBe(reason);
});

it("bounds memory, and time, as told", () => {
  expect(runProgram("l = []; while 1 { push(l, 1); }", {}, { steps: 1e6, cells: 100 })).toMatchObject({
    reason: "memory",
  });
  expect(runProgram("return 1 + 1;", {}, { steps: 3 })).toMatchObject({ reason: "steps" });
  expect(runProgram("return 1 + 1;", {}, { steps: 4 })).toEqual({ ok: true, value: 2 });
});

it("throws nothing, whatever it is given", () => {
  const words = [
    "if",
    "while",
    "return",
    "x",
    "l",
    "[",
    "]",
    "(",
    ")",
    "{",
    "}",
    "=",
    ";",
    "1",
    "0",
    "+",
    "/",
    "push",
    ",",
  ];
  let state = 1;
  const next = (below: number) => {
    state = (state * 48271) % 2147483647;
    return state % below;
  };
  const reasons = new Set<string>();
  for (let i = 0; i < 3000; i++) {
    const text = Array.from({ length: 1 + next(14) }, () => words[next(words.length)]).join(" ");
    const noise = String.fromCharCode(...Array.from({ length: 20 }, () => next(65536)));
    for (const source of [text, `return ${text};`, noise]) {
      const outcome: Outcome = runProgram(source, { x: 2 }, { steps: 200 });
      reasons.add(outcome.ok ? "ok" : outcome.reason);
    }
  }
  expect([...reasons]).toEqual(expect.arrayContaining(["ok", "syntax", "name"]));
  // Chains in brackets make the deepest trees that the length allows.
  const chain = `${"(".repeat(90)}1${`${"+1".repeat(9)})`.repeat(90)}`;
  expect(resultOf(`return ${chain};`)).toBe(1 + 90 * 9);
});

it.each(taskNames)("%s: every answer is right, prompts differ, examples are not asked", (name) => {
  const { examples, questions } = makeTask(name, { count: 1000, heldOutShare: 0.1 });
  expect(examples).toHaveLength(4);
  expect(questions.length).toBeGreaterThan(40);
  expect(makeTask(name, { count: 9, heldOutShare: 0.1, shots: 0 }).examples).toEqual([]);
  const prompts = [...examples, ...questions].map(({ prompt }) => prompt);
  expect(new Set(prompts).size).toBe(prompts.length);
  for (const question of questions) {
    expect(question.answer).not.toContain("\n");
    expect(isRight(question, ` ${question.answer}`), question.prompt).toBe(true);
    expect(isRight(question, `${question.answer}0`)).toBe(false);
    expect(isRight(question, "")).toBe(false);
  }
});

it("takes any program that computes the function, and word problems say what they ask", () => {
  const { questions } = makeTask("programs", { count: 1000, heldOutShare: 0.999 });
  const larger = questions.find(({ prompt }) => prompt.includes("the larger of x and 4, plus 2"))!;
  expect(isRight(larger, "if x > 4 { return 2 + x; } return 6;")).toBe(true);
  expect(isRight(larger, "return max(x, 4) + 3;")).toBe(false);
  expect(isRight(larger, "while 1 {}")).toBe(false);
  for (const { prompt, answer } of makeTask("word-problems", { count: 2000, heldOutShare: 0.999 }).questions) {
    const [a, b] = [...prompt.matchAll(/\d+/g)].map(Number) as [number, number];
    const result = prompt.includes("more.")
      ? a + b
      : prompt.includes("away")
        ? a - b
        : prompt.includes("boxes")
          ? a * b
          : a / b;
    expect(answer, prompt).toBe(String(result));
  }
});
