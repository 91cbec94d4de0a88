import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { ByteTokenizer } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { findCode, isReadableCode } from "../../src/domains/code.js";
import { splitByKey } from "../../src/domains/documents.js";
import { paragraphsOf } from "../../src/domains/prose.js";
import {
  allProblems,
  arithmeticSplit,
  closeDomains,
  heldOutProblems,
  installedModules,
  isHeldOutProblem,
  makeTask,
  openDomains,
  readBuiltIn,
  solvedExamples,
} from "../../src/index.js";
import { temporaryFolder } from "../checkpoints.js";

const tokenizer = new ByteTokenizer();

function write(root: string, files: Record<string, string>): void {
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(dirname(join(root, name)), { recursive: true });
    writeFileSync(join(root, name), text);
  }
}

const source = (name: string) =>
  `/* Licence */\nexport function ${name}(values) {\n${`  values.push(${name}.length);\n`.repeat(12)}}\n`;

describe("code", () => {
  it("finds sources once, without minified files, licence headers, other builds and links out of node_modules", async () => {
    const root = temporaryFolder();
    const modules = join(root, "node_modules");
    write(modules, {
      "a/src/one.ts": source("one"),
      "a/dist/one.js": source("one"),
      "a/dist/one.d.ts": source("declared"),
      "a/two.min.js": source("two"),
      "a/three.js": `var x=${"1+".repeat(4000)}1\n`,
      "b/copy.js": source("one"),
      "b/own.mjs": source("own"),
      "b/short.js": "let a;\n",
      "b/binary.js": `\0${source("binary")}`,
    });
    write(root, { "workspace/dev.js": source("dev") });
    symlinkSync(join(root, "workspace"), join(modules, "dev"));
    symlinkSync(join(modules, "a"), join(modules, "linked"));
    const documents = await findCode([modules], 1e6);
    expect(documents.map(({ key }) => key).sort()).toHaveLength(2);
    const text = documents.map((document) => document.text).join("");
    expect(text).toContain("function own");
    // One of `one.ts`, `dist/one.js`, `dist/one.d.ts` and the copy in b; which, the hash of the path decides.
    expect(/function (one|declared)/.test(text)).toBe(true);
    expect(text).not.toContain("Licence");
    expect(text).not.toContain("dev");
  });

  it("tells readable code from generated", () => {
    expect(isReadableCode(source("f").repeat(2))).toBe(true);
    expect(isReadableCode(`${source("f")}${"x".repeat(600)}`)).toBe(false);
  });

  it("keeps near copies of a file on one side", () => {
    const documents = Array.from({ length: 200 }, (_, i) => ({ key: `p file${i % 40}`, text: String(i) }));
    const { train, heldOut } = splitByKey(documents, 0.3);
    const keys = new Set(train.map(({ key }) => key));
    expect(heldOut.some(({ key }) => keys.has(key))).toBe(false);
    expect(heldOut.length).toBeGreaterThan(20);
  });
});

describe("prose", () => {
  it("keeps paragraphs and list items, and drops code, tables, headings, badges and links' addresses", () => {
    const first = "The quick brown fox jumps over the lazy dog, again and again and again.";
    const item = "each item that is long enough to be a sentence of its own is kept as well";
    const markdown = [
      "---\ntitle: x\n---",
      "# Heading that is long enough to be taken for a paragraph of running text",
      `[![badge](https://x.y/z.svg)](https://x.y) and some more words that make this long enough`,
      `The **quick** [brown fox](https://example.org/a) jumps over the\nlazy dog, again and again and again.`,
      "```js\nconst words = 'inside a fence there may be sentences that look like prose';\n\nconst more = 'even after an empty line there is still the same fence here';\n```",
      "| a table | with cells that are long enough to be taken for running text |\n|--|--|",
      `- short\n- ${item}`,
      "    indented code is code however long and wordy it may happen to be in there",
      "<p>An HTML block with plenty of words in it that should not be taken as prose</p>",
    ].join("\n\n");
    expect(paragraphsOf(markdown)).toEqual([first, item]);
  });
});

describe("arithmetic", () => {
  it("states only true problems, and never trains on a held-out one", () => {
    const { train, heldOut } = arithmeticSplit({ bytes: 40_000, heldOutShare: 0.2 });
    const lines = (side: typeof train) => side.flatMap(({ text }) => text.trimEnd().split("\n"));
    for (const line of [...lines(train), ...lines(heldOut)]) {
      const [, a, op, b, answer] = /^(\d+)([+*-])(\d+)=(\d+)$/.exec(line)!;
      const right = op === "+" ? Number(a) + Number(b) : op === "-" ? Number(a) - Number(b) : Number(a) * Number(b);
      expect(Number(answer), line).toBe(right);
    }
    const trained = new Set(lines(train));
    expect(lines(heldOut).filter((line) => trained.has(line))).toEqual([]);
    expect(lines(heldOut).length).toBeGreaterThan(500);
    const asked = heldOutProblems(0.2, 100);
    expect(asked).toHaveLength(100);
    expect(asked.every(({ prompt, answer }) => !trained.has(`${prompt}${answer}`))).toBe(true);
    expect(solvedExamples(0.2, 4)).toHaveLength(4);
  });

  it("is the same every time, and holds out the share asked for", () => {
    expect(arithmeticSplit({ bytes: 5000, heldOutShare: 0.1 })).toEqual(
      arithmeticSplit({ bytes: 5000, heldOutShare: 0.1 }),
    );
    const problems = allProblems();
    // Units without a carry: 55 pairs of 100; tens: 36 pairs with a sum below 10, 45 with a difference from 0.
    expect(problems).toHaveLength(55 * 36 + 55 * 45 + 100);
    const heldOut = problems.filter((problem) => isHeldOutProblem(problem, 0.1));
    const share = heldOut.length / (problems.length - 100);
    // 4,455 draws: one standard deviation is 0.0045.
    expect(Math.abs(share - 0.1)).toBeLessThan(0.015);
  });
});

describe("openDomains", () => {
  it("reads built-in domains from what is installed here, and keeps them", async () => {
    const cache = temporaryFolder();
    const sources = { code: "@code", prose: "@prose", arithmetic: "@arithmetic" };
    const options = { tokenizer, cache, maxBytes: 200_000 };
    const first = await openDomains(sources, options);
    for (const { train, heldOut } of first) {
      expect(train.tokens).toBeGreaterThan(100_000);
      expect(heldOut.tokens).toBeGreaterThan(1000);
    }
    const tokens = first.map(({ train }) => train.tokens);
    closeDomains(first);
    const again = await openDomains(sources, { ...options, roots: installedModules() });
    expect(again.map(({ train }) => train.tokens)).toEqual(tokens);
    closeDomains(again);
  });

  it("gives the same documents in the same order each time", async () => {
    const options = { heldOutShare: 0.1, maxBytes: 100_000, roots: installedModules() };
    expect(await readBuiltIn("@prose", options)).toEqual(await readBuiltIn("@prose", options));
  });

  it("takes a user's own files", async () => {
    const folder = temporaryFolder();
    const texts = Array.from({ length: 50 }, (_, i) =>
      JSON.stringify({ text: `Document ${i} says something of its own.` }),
    );
    writeFileSync(join(folder, "notes.jsonl"), `${texts.join("\n")}\n`);
    const [notes] = await openDomains(
      { notes: join(folder, "notes.jsonl") },
      { tokenizer, cache: join(folder, "cache"), heldOutShare: 0.2 },
    );
    expect(notes!.train.documents + notes!.heldOut.documents).toBe(50);
    closeDomains([notes!]);
  });

  it("refuses unknown built-in domains and folders without text", async () => {
    const folder = temporaryFolder();
    const options = { tokenizer, cache: join(folder, "cache") };
    await expect(openDomains({ x: "@poems" }, options)).rejects.toMatchObject({ code: "DATA_INVALID_OPTION" });
    await expect(openDomains({ code: "@code" }, { ...options, roots: [folder] })).rejects.toMatchObject({
      code: "DATA_EMPTY",
    });
    await expect(openDomains({ x: join(folder, "absent") }, options)).rejects.toMatchObject({ code: "DATA_NOT_FOUND" });
  });
});

it.each(["word-problems", "programs", "facts"] as const)(
  "@%s is text to learn the task from, without what the task asks",
  async (name) => {
    const options = { heldOutShare: 0.1, maxBytes: 200_000, roots: [] };
    const { train, heldOut } = await readBuiltIn(`@${name}`, options);
    const [learnt, held] = [train, heldOut].map((side) => side.map(({ text }) => text).join(""));
    expect(learnt!.length).toBeGreaterThan(200_000);
    expect(held!.length).toBeGreaterThan(20_000);
    const { examples, questions } = makeTask(name, { count: 1000, heldOutShare: 0.1 });
    for (const { prompt } of questions) expect(learnt).not.toContain(prompt);
    const all = [...examples, ...questions].map(({ prompt, answer }) => `${prompt}${answer}\n`);
    expect(all.reduce((rest, each) => rest.replaceAll(each, ""), held!)).toBe("");
    if (name === "facts") for (const { answer } of questions) expect(learnt).toMatch(new RegExp(`\\b${answer}\\b`));
    else expect(examples.some(({ prompt, answer }) => learnt!.includes(`${prompt}${answer}\n`))).toBe(true);
    // The same again, for whoever resumes.
    expect(await readBuiltIn(`@${name}`, options)).toEqual({ train, heldOut });
  },
);
