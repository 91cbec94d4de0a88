import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { isHeldOut, readDocuments, type TextDocument, type TextSource } from "../../src/data/index.js";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-test-"));
});
afterEach(() => rm(folder, { recursive: true }));

async function put(files: Record<string, string | Uint8Array>): Promise<void> {
  for (const [name, content] of Object.entries(files)) {
    await mkdir(dirname(join(folder, name)), { recursive: true });
    await writeFile(join(folder, name), content);
  }
}

async function read(source: TextSource): Promise<TextDocument[]> {
  const documents: TextDocument[] = [];
  for await (const document of readDocuments(source)) documents.push(document);
  return documents;
}
const textsOf = async (source: TextSource) => (await read(source)).map(({ text }) => text);
const under = (...names: string[]) => ({ paths: names.map((name) => join(folder, name)) });

describe("readDocuments", () => {
  it("walks folders by name, filters by extension, and passes hidden entries and links to folders over", async () => {
    await put({
      "b.txt": "b",
      "a/z.md": "z",
      "a/.hidden.txt": "no",
      ".git/x.txt": "no",
      "c.bin": "no",
      "a/b.txt": " \n",
    });
    await symlink("..", join(folder, "a", "loop"));
    expect(await textsOf({ paths: [folder] })).toEqual(["z", "b"]);
    expect(await textsOf({ paths: [folder], extensions: [".bin"] })).toEqual(["no"]);
    expect(await textsOf(under("b.txt", "a", "b.txt"))).toEqual(["b", "z"]);
  });

  it("matches globs", async () => {
    await put({
      "src/a.ts": "1",
      "src/deep/b.ts": "2",
      "src/deep/c.js": "3",
      "src/d.test.ts": "4",
      "x.ts": "5",
      "src/[e].ts": "6",
    });
    const cases: [string, string[]][] = [
      ["src/*.ts", ["6", "1", "4"]],
      ["src/**/*.ts", ["6", "1", "4", "2"]],
      ["**/*.{js,ts}", ["6", "1", "4", "2", "3", "5"]],
      ["src/?.ts", ["1"]],
      ["src/**", ["6", "1", "4", "2", "3"]],
      ["src/[a-c].ts", ["1"]],
      ["src/[!a-c]*.ts", ["6", "4"]],
    ];
    for (const [pattern, expected] of cases) expect(await textsOf(under(pattern)), pattern).toEqual(expected);
    for (const paths of [["*.none"], ["absent"], ["absent/*.ts"]])
      await expect(read(under(...paths))).rejects.toMatchObject({ code: "DATA_NOT_FOUND" });
    await expect(read(under("{a"))).rejects.toMatchObject({ code: "DATA_INVALID_OPTION" });
  });

  it("takes what is there by its whole name, whatever it would mean as a glob", async () => {
    await put({ "notes [old]/a.txt": "1", "notes [old]/b?.txt": "2", "notes o/a.txt": "3", "{x.txt": "4" });
    const cases: [string, string[]][] = [
      ["notes [old]", ["1", "2"]],
      ["notes [old]/*.txt", ["1", "2"]],
      ["notes [old]/b?.txt", ["2"]],
      ["notes [o]/*.txt", ["3"]],
      ["{x.txt", ["4"]],
    ];
    for (const [path, expected] of cases) expect(await textsOf(under(path)), path).toEqual(expected);
  });

  it("splits plain text into paragraphs and lines", async () => {
    await put({ "a.txt": "one\ntwo\r\n\n \nthree\n\n\nfour" });
    const source = under("a.txt");
    expect(await textsOf({ ...source, unit: "line" })).toEqual(["one", "two", "three", "four"]);
    const paragraphs = await textsOf({ ...source, unit: "paragraph" });
    expect(paragraphs.map((text) => text.trim())).toEqual(["one\ntwo", "three", "four"]);
  });

  it("reads JSON lines, whatever line separators of Unicode they hold", async () => {
    await put({
      "a.jsonl": '{"text":"a\u2028b\\n"}\n\n{"text":"c"}\r\n{"text":"d","other":1}',
      "b.ndjson": '{"body":"e"}\n',
    });
    expect(await textsOf(under("a.jsonl"))).toEqual(["a\u2028b\n", "c", "d"]);
    expect(await textsOf({ ...under("b.ndjson"), field: "body" })).toEqual(["e"]);
    await expect(read(under("b.ndjson"))).rejects.toMatchObject({
      code: "DATA_INVALID_JSONL",
      message: expect.stringMatching(/b\.ndjson:1: .*"text"/),
    });
    for (const line of ["{", "[]", "null", '{"text":1}']) {
      await put({ "bad.jsonl": `{"text":"fine"}\n${line}\n` });
      await expect(read(under("bad.jsonl"))).rejects.toMatchObject({
        code: "DATA_INVALID_JSONL",
        message: expect.stringContaining(":2:"),
      });
    }
  });

  it("hands long documents out in parts that share a key and lose nothing", async () => {
    const line = `${"x".repeat(99)}\n`;
    const long = line.repeat(100_000); // 10 MB
    const unbroken = "é😀".repeat(1_500_000);
    await put({ "long.txt": long, "unbroken.txt": unbroken });
    for (const [name, text] of [
      ["long.txt", long],
      ["unbroken.txt", unbroken],
    ] as const) {
      const parts = await read(under(name));
      expect(parts.length).toBeGreaterThan(1);
      expect(parts.map(({ text: part }) => part).join("") === text).toBe(true);
      expect(parts.map(({ continues }) => continues)).toEqual(parts.map((_, i) => i < parts.length - 1));
      expect(new Set(parts.map(({ key }) => key)).size).toBe(1);
      for (const part of parts) expect(Buffer.from(part.text).toString() === part.text).toBe(true); // no surrogate pair was cut;
    }
  });

  it("stops after maxBytes, refuses what is not UTF-8, and names an empty source", async () => {
    await put({ "a.txt": "aaaa", "b.txt": "bbbb", "c.txt": Uint8Array.of(0xff, 0xfe, 0x41), "empty.txt": "\n" });
    expect(await textsOf({ ...under("a.txt", "b.txt"), maxBytes: 3 })).toEqual(["aaaa"]);
    await expect(read(under("c.txt"))).rejects.toMatchObject({ code: "DATA_INVALID_TEXT" });
    expect(await textsOf({ ...under("c.txt", "a.txt"), invalidUtf8: "skip" })).toEqual(["aaaa"]);
    await expect(read(under("empty.txt"))).rejects.toMatchObject({ code: "DATA_EMPTY" });
  });
});

describe("isHeldOut", () => {
  it("takes the asked fraction, the same at every call, and keeps its choices when the fraction grows", () => {
    const keys = Array.from({ length: 20_000 }, (_, i) => `document ${i}`);
    const held = keys.filter((key) => isHeldOut(key, 0.1));
    // binomial: mean 2000, standard deviation 42
    expect(Math.abs(held.length - 2000)).toBeLessThan(5 * 42);
    for (const key of held) expect(isHeldOut(key, 0.2)).toBe(true);
    expect(keys.filter((key) => isHeldOut(key, 0.1, 1) && isHeldOut(key, 0.1)).length).toBeLessThan(400); // independent: 200
    expect(keys.some((key) => isHeldOut(key, 0))).toBe(false);
    expect(keys.every((key) => isHeldOut(key, 1))).toBe(true);
    expect(() => isHeldOut("x", 1.5)).toThrow(expect.objectContaining({ code: "DATA_INVALID_OPTION" }));
  });
});
