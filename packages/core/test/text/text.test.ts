import { readFileSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Tokenizer as HuggingFace } from "@huggingface/tokenizers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  BpeTokenizer,
  ByteTokenizer,
  ChatTemplate,
  compareTokenizers,
  HuggingFaceTokenizer,
  loadTokenizer,
  makeTokenizer,
  saveTokenizer,
  type Tokenizer,
  tokenizerFiles,
  trainBpe,
} from "../../src/text/index.js";

const fixtures = fileURLToPath(new URL("../../../../tests/conformance/fixtures/io/", import.meta.url));
const readFixture = (name: string) => readFileSync(join(fixtures, name), "utf8");
/** Vocabulary, merges and ids from Hugging Face's own trainer: see tests/conformance/make_io_fixtures.py. */
const python = JSON.parse(readFixture("bpe.json")) as {
  vocab: Record<string, number>;
  merges: [string, string][];
  encodings: number[][];
};
const texts = JSON.parse(readFixture("texts.json")) as string[];

let folder: string;
let bpe: BpeTokenizer;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-test-"));
  bpe = await trainBpe([readFixture("corpus.txt")], { vocabSize: 700 });
});
afterAll(() => rm(folder, { recursive: true }));

/** Strings over all planes of Unicode without lone surrogates, from a fixed linear congruential generator. */
function* unicodeStrings(count: number): Generator<string> {
  let state = 12345;
  const next = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
  for (let i = 0; i < count; i++) {
    const limit = [0x80, 0x250, 0xd800, 0x110000][next(4)] as number;
    const points = Array.from({ length: next(60) }, () => {
      const point = next(limit);
      return point >= 0xd800 && point < 0xe000 ? 0x20 : point;
    });
    yield String.fromCodePoint(...points);
  }
}

describe("ByteTokenizer", () => {
  const tokenizer = new ByteTokenizer();

  it("gives UTF-8 bytes, and specials only when asked", () => {
    expect([...tokenizer.encode("é</s>")]).toEqual([0xc3, 0xa9, 0x3c, 0x2f, 0x73, 0x3e]);
    expect([...tokenizer.encode("<s>é</s>", { specialTokens: true })]).toEqual([256, 0xc3, 0xa9, 257]);
    expect(tokenizer.decode([256, 0xc3, 0xa9, 257])).toBe("é");
    expect(tokenizer.decode([256, 0xc3, 0xa9, 257], { specialTokens: true })).toBe("<s>é</s>");
    expect(() => tokenizer.decode([258])).toThrow(expect.objectContaining({ code: "TOKENIZER_UNKNOWN_ID" }));
    expect(tokenizer.byteLengths().reduce((sum, bytes) => sum + bytes)).toBe(256);
  });

  it("writes files that mean the same to @huggingface/tokenizers", () => {
    const files = tokenizerFiles(tokenizer);
    const other = new HuggingFace(files["tokenizer.json"], files["tokenizer_config.json"]);
    for (const text of [...texts, ...unicodeStrings(200)]) {
      expect(other.encode(text).ids, text).toEqual([...tokenizer.encode(text, { specialTokens: true })]);
    }
  });

  it("is recognised when loaded", async () => {
    await saveTokenizer(folder, tokenizer);
    const loaded = await loadTokenizer(folder);
    expect(loaded).toBeInstanceOf(ByteTokenizer);
    expect(compareTokenizers(loaded, tokenizer)).toBeUndefined();
  });
});

describe("ChatTemplate", () => {
  const messages = [{ role: "user", content: "hi" }];
  const rendered = async (where: string) => ChatTemplate.of(await loadTokenizer(where))?.render(messages, true);
  const template = (mark: string) => `{% for m in messages %}${mark}{{ m.content }}{{ eos_token }}{% endfor %}`;

  it.each(["bytes", "byte-pair encoding"])("is read from the configuration or a file of its own: %s", async (kind) => {
    const path = join(folder, `chat ${kind}`);
    await mkdir(path);
    await saveTokenizer(path, kind === "bytes" ? new ByteTokenizer() : bpe);
    expect(await rendered(path)).toBeUndefined();
    const config = join(path, "tokenizer_config.json");
    const write = async (chat_template: unknown) =>
      await writeFile(config, JSON.stringify({ ...JSON.parse(await readFile(config, "utf8")), chat_template }));
    await write([
      { name: "tool_use", template: template("!") },
      { name: "default", template: template("*") },
    ]);
    expect(await rendered(path)).toBe("*hi</s>");
    await write(template("+"));
    expect(await rendered(path)).toBe("+hi</s>");
    // Where both are, transformers takes the file.
    await writeFile(join(path, "chat_template.jinja"), template("#"));
    expect(await rendered(path)).toBe("#hi</s>");
  });
});

describe("trainBpe", () => {
  it("learns what Hugging Face's trainer learns", () => {
    expect(bpe.definition.model.merges).toEqual(python.merges.map(([left, right]) => `${left} ${right}`));
    expect(bpe.definition.model.vocab).toEqual(python.vocab);
    expect(bpe.vocabSize).toBe(700);
    expect([bpe.bosTokenId, bpe.eosTokenId, bpe.padTokenId]).toEqual([0, 1, undefined]);
  });

  it("gives the same tokenizer for the same documents, from any iterable", async () => {
    const lines = readFixture("corpus.txt").split("\n");
    async function* stream() {
      yield* lines;
    }
    const [first, second] = [await trainBpe(lines, { vocabSize: 400 }), await trainBpe(stream(), { vocabSize: 400 })];
    expect(first.definition).toEqual(second.definition);
    expect(first.hash).toBe(second.hash);
  });

  it("stops when nothing is left to merge, and refuses what it cannot do", async () => {
    expect((await trainBpe(["abab abab"], { vocabSize: 5000 })).vocabSize).toBeLessThan(265);
    await expect(trainBpe([], { vocabSize: 300 })).rejects.toMatchObject({ code: "TOKENIZER_TRAINING" });
    await expect(trainBpe(["a"], { vocabSize: 257 })).rejects.toMatchObject({ code: "TOKENIZER_TRAINING" });
    await expect(trainBpe(["a"], { vocabSize: 65537 })).rejects.toMatchObject({ code: "TOKENIZER_TRAINING" });
  });
});

describe("BpeTokenizer", () => {
  it("encodes as Hugging Face's library does", () => {
    for (const [i, text] of texts.entries())
      expect([...bpe.encode(text, { specialTokens: true })], text).toEqual(python.encodings[i]);
  });

  it("returns any text unchanged", () => {
    for (const text of [...texts, ...unicodeStrings(500)]) {
      expect(bpe.decode(bpe.encode(text))).toBe(text);
      expect(bpe.decode(bpe.encode(text, { specialTokens: true }), { specialTokens: true })).toBe(text);
    }
  });

  it("counts the bytes of each token", () => {
    const lengths = bpe.byteLengths();
    for (const text of texts) {
      const bytes = bpe.encode(text).reduce((sum, id) => sum + (lengths[id] as number), 0);
      expect(bytes).toBe(Buffer.byteLength(text));
    }
  });

  it("encodes a word of 200,000 letters without quadratic time", () => {
    const word = "abcdefghij".repeat(20_000);
    const start = performance.now();
    expect(bpe.decode(bpe.encode(word))).toBe(word);
    expect(performance.now() - start).toBeLessThan(5000); // quadratic: minutes
  });

  it("is loaded from its files", async () => {
    await saveTokenizer(folder, bpe);
    const loaded = await loadTokenizer(folder);
    expect(loaded).toBeInstanceOf(BpeTokenizer);
    expect(loaded.hash).toBe(bpe.hash);
    expect(loaded.eosTokenId).toBe(1);
  });
});

describe("HuggingFaceTokenizer", () => {
  it("agrees with our own encoder", () => {
    const other = new HuggingFaceTokenizer(bpe.definition, bpe.config);
    for (const text of texts) {
      if (/[\u0085\ufeff]/.test(text)) continue; // JavaScript's \s differs from Unicode's white space in these two
      expect(other.encode(text, { specialTokens: true }), text).toEqual(bpe.encode(text, { specialTokens: true }));
      expect(other.decode(other.encode(text))).toBe(text);
    }
    expect([...other.encode("a</s>")]).not.toContain(other.eosTokenId);
    expect(other.byteLengths()).toEqual(bpe.byteLengths());
    expect(() => other.decode([700])).toThrow(expect.objectContaining({ code: "TOKENIZER_UNKNOWN_ID" }));
  });

  it("is chosen for other structures", () => {
    const json = { ...structuredClone(bpe.definition), normalizer: { type: "Lowercase" } };
    const tokenizer = makeTokenizer(json, bpe.config);
    expect(tokenizer).toBeInstanceOf(HuggingFaceTokenizer);
    expect(tokenizer.decode(tokenizer.encode("ABC"))).toBe("abc");
  });
});

it("keeps a token that objects have a use for of their own", async () => {
  const word = "__proto__";
  const json = structuredClone(bpe.definition) as { model: { vocab: object; merges: string[] }; pre_tokenizer: object };
  json.pre_tokenizer = { ...json.pre_tokenizer, use_regex: false };
  const vocab = new Map<string, number>(Object.entries(json.model.vocab));
  for (let end = 2; end <= word.length; end++) {
    json.model.merges.unshift(`${word.slice(0, end - 1)} ${word[end - 1]}`);
    if (!vocab.has(word.slice(0, end))) vocab.set(word.slice(0, end), vocab.size);
  }
  json.model.merges.reverse();
  json.model.vocab = Object.fromEntries(vocab);
  // As a file, where an object literal could not have the key.
  await writeFile(join(folder, "tokenizer.json"), JSON.stringify(json));
  const tokenizer = await loadTokenizer(folder);
  const id = vocab.get(word)!;
  expect(tokenizer.vocabSize).toBe(vocab.size);
  expect(tokenizer.decode([id])).toBe(word);
  expect(tokenizer.byteLengths()![id]).toBe(word.length);
  expect(JSON.stringify(tokenizerFiles(tokenizer)["tokenizer.json"])).toContain(`"${word}":${id}`);
});

it("a pair of merges that is listed twice has the later rank, as in Hugging Face's tokenizers", () => {
  const json = structuredClone(bpe.definition);
  const merges = json.model.merges as string[];
  // "abc": with the first rank of "a b" it begins with "ab"; with the last, "b c" comes first.
  json.model.vocab = { ...(json.model.vocab as Record<string, number>), ab: 700, bc: 701 };
  json.model.merges = ["a b", "b c", "a b", ...merges.filter((merge) => merge !== "a b" && merge !== "b c")];
  const [own, library] = [new BpeTokenizer(json, {}), new HuggingFace(json, {})];
  expect([...own.encode("abc")]).toEqual(library.encode("abc", { add_special_tokens: false }).ids);
  expect([...own.encode("abc")].at(-1)).toBe(701);
});

describe("files that are wrong", () => {
  it.each([
    ["{", "JSON"],
    ["{}", "model"],
    ['{"model":{"vocab":{"a":-1}}}', "vocab"],
    ['{"model":{"vocab":{"a":1.5}}}', "vocab"],
    ['{"model":{"vocab":{"a":0,"b":0}}}', "same id"],
    ['{"model":{"vocab":{"a":0}},"added_tokens":[{"id":0,"content":"<s>"}]}', "same id"],
    ['{"model":{"vocab":{"a":0},"merges":[1]}}', "merges"],
  ])("refuses %s", async (text, word) => {
    await writeFile(join(folder, "tokenizer.json"), text);
    await expect(loadTokenizer(folder)).rejects.toMatchObject({
      code: "TOKENIZER_INVALID",
      message: expect.stringContaining(word),
    });
  });

  it("names a merge of unknown tokens and a missing file", async () => {
    const json = structuredClone(bpe.definition);
    json.model.merges?.push("Ġ zzz");
    expect(() => makeTokenizer(json, {})).toThrow(expect.objectContaining({ code: "TOKENIZER_INVALID" }));
    await expect(loadTokenizer(join(folder, "absent"))).rejects.toMatchObject({
      code: "TOKENIZER_MISSING",
      message: expect.stringContaining("there is no such folder"),
    });
    expect(await readFile(join(folder, "tokenizer_config.json"), "utf8")).toContain("PreTrainedTokenizerFast");
  });
});

it("compareTokenizers names the first difference", () => {
  const change = (edit: (json: BpeTokenizer["definition"]) => void, config = bpe.config): Tokenizer => {
    const json = structuredClone(bpe.definition);
    edit(json);
    return makeTokenizer(json, config);
  };
  const kind = (other: Tokenizer) => compareTokenizers(bpe, other)?.kind;
  expect(
    compareTokenizers(
      bpe,
      change(() => undefined),
    ),
  ).toBeUndefined();
  expect(
    compareTokenizers(
      bpe,
      change((json) => {
        json.model.merges = python.merges;
        json.model.dropout = undefined;
      }),
    ),
  ).toBeUndefined();
  expect(compareTokenizers(bpe, new ByteTokenizer())).toEqual({
    kind: "vocabSize",
    message: "the vocabularies have 700 and 258 ids",
  });
  expect(kind(change(() => undefined, { bos_token: "<s>" }))).toBe("specialIds");
  expect(kind(change((json) => json.model.merges?.reverse()))).toBe("merges");
  expect(kind(change((json) => json.model.merges?.pop()))).toBe("merges");
  expect(
    kind(
      change((json) => {
        json.normalizer = { type: "Lowercase" };
      }),
    ),
  ).toBe("normalizer");
  expect(
    kind(
      change((json) => {
        json.pre_tokenizer = { type: "ByteLevel", add_prefix_space: true };
      }),
    ),
  ).toBe("preTokenizer");
  expect(
    kind(
      change((json) => {
        json.model.ignore_merges = true;
      }),
    ),
  ).toBe("model");
  expect(
    kind(
      change((json) => {
        const vocab = json.model.vocab as Record<string, number>;
        [vocab.a, vocab.b] = [vocab.b as number, vocab.a as number];
      }),
    ),
  ).toBe("vocabulary");
});
