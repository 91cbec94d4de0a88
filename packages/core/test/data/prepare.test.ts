import { mkdtemp, readFile, rename, rm, utimes, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  ByteTokenizer,
  ChatEncoder,
  InitialValues,
  makeTokenizer,
  NearCopies,
  type PreparedTokens,
  prepareTokens,
  type TokenFile,
} from "../../src/index.js";

const tokenizer = new ByteTokenizer();
let folder: string;
const opened: TokenFile[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-test-"));
});
afterEach(async () => {
  for (const file of opened.splice(0)) file.close();
  await rm(folder, { recursive: true });
});

const keep = (prepared: PreparedTokens): PreparedTokens => {
  const { train, heldOut, trainMask, heldOutMask } = prepared;
  for (const file of [train, heldOut, trainMask, heldOutMask]) if (file) opened.push(file);
  return prepared;
};
const idsOf = (file: TokenFile) => {
  const ids = new Int32Array(file.tokens);
  file.read(0, ids);
  return [...ids];
};
const documentsOf = (file: TokenFile) =>
  tokenizer.decode(idsOf(file), { specialTokens: true }).split("</s>").slice(0, -1);

const random = new InitialValues(3);
const words = Array.from({ length: 500 }, (_, i) => `word${i.toString(36)}`);
const textOf = (count: number) =>
  Array.from({ length: count }, () => words[Math.floor(random.next() * words.length)]).join(" ");
const jsonl = async (name: string, rows: readonly object[]) => {
  const path = join(folder, name);
  await writeFile(path, rows.map((row) => JSON.stringify(row)).join("\n"));
  return path;
};

describe("the cache", () => {
  it("goes by content: not by where a file lies or when it was touched", async () => {
    const path = await jsonl("a.jsonl", [{ text: "one" }, { text: "two" }]);
    const out = join(folder, "tokens");
    expect(keep(await prepareTokens(out, { paths: [path] }, { tokenizer })).reused).toBe(false);
    await utimes(path, 1, 1);
    expect(keep(await prepareTokens(out, { paths: [path] }, { tokenizer })).reused).toBe(true);
    const moved = join(folder, "b.jsonl");
    await rename(path, moved);
    expect(keep(await prepareTokens(out, { paths: [moved] }, { tokenizer })).reused).toBe(true);
    const text = await readFile(moved, "utf8");
    await writeFile(moved, text.replace("two", "six"));
    expect(keep(await prepareTokens(out, { paths: [moved] }, { tokenizer })).reused).toBe(false);
    const other = new ByteTokenizer();
    Object.defineProperty(other, "hash", { value: "another" });
    expect(keep(await prepareTokens(out, { paths: [moved] }, { tokenizer: other })).reused).toBe(false);
  });
});

describe("the split", () => {
  it("drops repeated documents, spaced otherwise too, and counts them", async () => {
    const texts = Array.from({ length: 60 }, () => textOf(8));
    const rows = [
      ...texts,
      ...texts.slice(0, 20),
      ...texts.slice(20, 30).map((text) => ` ${text.replaceAll(" ", "\n")}`),
    ];
    const path = await jsonl(
      "a.jsonl",
      rows.map((text) => ({ text })),
    );
    const options = { tokenizer, heldOutFraction: 0.3 };
    const dropped = keep(
      await prepareTokens(join(folder, "drop"), { paths: [path] }, { ...options, duplicates: "drop" }),
    );
    expect(dropped.duplicates).toBe(30);
    expect([...documentsOf(dropped.train), ...documentsOf(dropped.heldOut!)].sort()).toEqual([...texts].sort());
    const kept = keep(await prepareTokens(join(folder, "keep"), { paths: [path] }, options));
    expect(kept.duplicates).toBe(0);
    // Even where both copies stay, they stay on one side.
    const flat = (file: TokenFile) => documentsOf(file).map((text) => text.trim().replace(/\s+/g, " "));
    const heldOut = new Set(flat(kept.heldOut!));
    expect(flat(kept.train).filter((text) => heldOut.has(text))).toEqual([]);
    const again = keep(
      await prepareTokens(join(folder, "drop"), { paths: [path] }, { ...options, duplicates: "drop" }),
    );
    expect(again).toMatchObject({ reused: true, duplicates: 30 });
  });

  it("keeps near copies of held-out documents out of training", async () => {
    const texts = Array.from({ length: 80 }, () => textOf(60));
    // Every text a second time with another beginning, case and punctuation.
    const copies = texts.map((text) => `${textOf(12)}. ${text.toUpperCase().replaceAll(" ", ", ")}`);
    const path = await jsonl(
      "a.jsonl",
      [...texts, ...copies].map((text) => ({ text })),
    );
    const options = { tokenizer, heldOutFraction: 0.3 };
    const plain = keep(await prepareTokens(join(folder, "plain"), { paths: [path] }, options));
    const heldOut = documentsOf(plain.heldOut!);
    const partner = new Map([...texts.map((text, i) => [text, copies[i]!] as const)]);
    for (const [text, copy] of [...partner]) partner.set(copy, text);
    const trained = new Set(documentsOf(plain.train));
    const leaks = heldOut.filter((text) => trained.has(partner.get(text)!));
    expect(leaks.length).toBeGreaterThan(5);

    const clean = keep(
      await prepareTokens(join(folder, "clean"), { paths: [path] }, { ...options, nearCopyShare: 0.5 }),
    );
    expect(documentsOf(clean.heldOut!)).toEqual(heldOut);
    expect(clean.nearCopies).toBe(leaks.length);
    const left = new Set(documentsOf(clean.train));
    expect(heldOut.filter((text) => left.has(partner.get(text)!))).toEqual([]);
    expect(left.size).toBe(trained.size - leaks.length);
  });

  it("counts runs of 13 words", () => {
    const known = textOf(100).split(" ");
    const copies = new NearCopies(0.5);
    copies.add(known.join(" "));
    // 20 known words, then new ones: 8 of the runs are known.
    const mixed = (fresh: number) => [...known.slice(30, 50), ...Array.from({ length: fresh }, (_, i) => `new${i}`)];
    expect(copies.isCopy(mixed(8).join(" "))).toBe(true);
    expect(copies.isCopy(mixed(9).join(" "))).toBe(false);
    expect(copies.isCopy(known.slice(0, 12).join(" "))).toBe(false);
  });
});

describe("conversations", () => {
  const template =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}";
  const chatty = () => {
    const made = new ByteTokenizer();
    Object.defineProperty(made, "config", {
      value: { ...made.config, chat_template: template, eos_token: "</s>", bos_token: "<s>" },
    });
    return made;
  };
  const learnt = (encoder: ChatEncoder, conversation: object) => {
    const { tokens, learn } = encoder.encode({ path: "a.jsonl", conversation: conversation as never });
    const of = (wanted: number) =>
      tokenizer.decode(
        tokens.filter((_, i) => learn[i] === wanted),
        { specialTokens: true },
      );
    return { learnt: of(1), given: of(0), all: tokenizer.decode(tokens, { specialTokens: true }) };
  };

  it("learns the assistant's turns and their ends, and nothing else", () => {
    const messages = [
      { role: "system", content: "Be brief." },
      { role: "user", content: "1+1?" },
      { role: "assistant", content: "2" },
      { role: "user", content: "Thanks" },
      { role: "assistant", content: "Bye" },
    ];
    const found = learnt(new ChatEncoder(chatty()), { messages });
    expect(found.all).toBe("<system>Be brief.</s><user>1+1?</s><assistant>2</s><user>Thanks</s><assistant>Bye</s>");
    expect(found.learnt).toBe("2</s>Bye</s>");
    expect(found.given).toBe("<system>Be brief.</s><user>1+1?</s><assistant><user>Thanks</s><assistant>");
    expect(learnt(new ChatEncoder(tokenizer), { prompt: "2*3=", completion: "6" })).toMatchObject({
      learnt: "6</s>",
      given: tokenizer.bosTokenId === undefined ? "2*3=" : "<s>2*3=",
    });
  });

  it("has the tokens of the whole text where a tokenizer marks beginnings, as SentencePiece's do", () => {
    const letters = ["<unk>", "<s>", "</s>", ..."\u2581abcdefghijklmnopqrstuvwxyz[]/:"];
    const special = (content: string, id: number) => ({ id, content, special: true, normalized: false });
    const made = (normalizer: object | null, preTokenizer: object | null) =>
      makeTokenizer(
        {
          added_tokens: ["<unk>", "<s>", "</s>"].map(special),
          normalizer,
          pre_tokenizer: preTokenizer,
          post_processor: null,
          decoder: { type: "Metaspace", replacement: "\u2581", prepend_scheme: "first", split: false },
          model: {
            type: "BPE",
            unk_token: "<unk>",
            fuse_unk: true,
            vocab: Object.fromEntries(letters.map((letter, id) => [letter, id])),
            merges: [],
          },
        },
        {
          bos_token: "<s>",
          eos_token: "</s>",
          chat_template:
            "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[i] {{ m.content }} [/i]{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}",
        },
      );
    const prepend = { type: "Prepend", prepend: "\u2581" };
    const spaces = { type: "Replace", pattern: { String: " " }, content: "\u2581" };
    const metaspace = { type: "Metaspace", replacement: "\u2581", prepend_scheme: "first", split: false };
    for (const chat of [made({ type: "Sequence", normalizers: [prepend, spaces] }, null), made(null, metaspace)]) {
      const messages = [
        { role: "user", content: "hi" },
        { role: "assistant", content: "ho" },
        { role: "user", content: "so" },
        { role: "assistant", content: "la" },
      ];
      const { tokens, learn } = new ChatEncoder(chat).encode({ path: "a.jsonl", conversation: { messages } });
      expect(tokens).toEqual([...chat.encode("<s>[i] hi [/i]ho</s>[i] so [/i]la</s>", { specialTokens: true })]);
      const learnt = tokens.filter((_, i) => learn[i] === 1).map((id) => letters[id]);
      expect(learnt).toEqual(["h", "o", "</s>", "l", "a", "</s>"]);
    }
  });

  it("refuses what it cannot cut into turns", () => {
    const encoder = new ChatEncoder(tokenizer);
    const encode = (messages: object[]) => () =>
      encoder.encode({ path: "a.jsonl", conversation: { messages } as never });
    expect(encode([{ role: "assistant", content: "x" }])).toThrow(/no chat_template/);
    const silent = new ChatEncoder(chatty());
    expect(() =>
      silent.encode({ path: "a.jsonl", conversation: { messages: [{ role: "user", content: "x" }] } }),
    ).toThrow(/role "assistant"/);
  });

  it("stores a mask beside the tokens", async () => {
    const rows = Array.from({ length: 40 }, (_, i) => ({ prompt: `${i}+1=`, completion: String(i + 1) }));
    const path = await jsonl("a.jsonl", rows);
    const source = { paths: [path], format: "chat" as const };
    const made = keep(await prepareTokens(join(folder, "chat"), source, { tokenizer, heldOutFraction: 0.2 }));
    for (const [file, mask] of [
      [made.train, made.trainMask!],
      [made.heldOut!, made.heldOutMask!],
    ] as const) {
      const [ids, marks] = [idsOf(file), idsOf(mask)];
      expect(marks.length).toBe(ids.length);
      const text = tokenizer.decode(
        ids.filter((_, i) => marks[i] === 1),
        { specialTokens: true },
      );
      const answers = documentsOf(file).map((document) => document.split("=")[1]);
      expect(text).toBe(answers.map((answer) => `${answer}</s>`).join(""));
    }
    const bad = await jsonl("bad.jsonl", [{ prompt: "only" }]);
    await expect(
      prepareTokens(join(folder, "bad"), { paths: [bad], format: "chat" }, { tokenizer }),
    ).rejects.toMatchObject({ code: "DATA_INVALID_JSONL", message: expect.stringContaining("bad.jsonl:1") });
  });
});
