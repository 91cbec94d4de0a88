import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  evaluationBatches,
  ignoredTarget,
  type MixtureOptions,
  prepareTokens,
  type RangeReader,
  type TokenBatch,
  TokenFile,
  TokenFileWriter,
  TokenMixture,
} from "../../src/data/index.js";
import { MappedFile } from "../../src/device/index.js";
import { ByteTokenizer } from "../../src/text/index.js";

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

/** A token file of documents, each given as its tokens. */
async function tokenFile(name: string, documents: number[][], vocabSize = 1000): Promise<TokenFile> {
  const path = join(folder, name);
  const writer = await TokenFileWriter.create(path, { hash: "h", vocabSize });
  for (const document of documents) {
    await writer.append(document, document.length);
    writer.endDocument();
  }
  await writer.finish();
  const file = TokenFile.open(path);
  opened.push(file);
  return file;
}
const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);

describe("TokenFile", () => {
  it.each([
    ["u16", 65536],
    ["u32", 65537],
  ] as const)("returns %s tokens and documents as they were", async (dtype, vocabSize) => {
    const documents = [range(0, 10), [], [vocabSize - 1], range(300_000, 600_000).map((value) => value % vocabSize)];
    const file = await tokenFile("x", documents, vocabSize);
    expect(file.header).toMatchObject({ dtype, tokens: 300_011, documents: 3, textBytes: 300_011 });
    const all = new Int32Array(file.tokens);
    file.read(0, all);
    expect(Buffer.from(all.buffer).equals(Buffer.from(Int32Array.from(documents.flat()).buffer))).toBe(true);
    const part = new Int32Array(5);
    file.read(8, part);
    expect(part).toEqual(Int32Array.from(documents.flat().slice(8, 13)));
    file.readSegments(8, part);
    expect([...part]).toEqual([0, 0, 1, 2, 2]);
    file.readSegments(11, part);
    expect([...part]).toEqual([0, 0, 0, 0, 0]);
    expect(() => file.read(300_010, part)).toThrow(RangeError);
  });

  it("reads through an injected reader and closes it", async () => {
    const { path } = await tokenFile("x", [range(0, 100)]);
    const inner = new MappedFile(path);
    let closed = false;
    const reader: RangeReader = {
      bytes: inner.bytes,
      readRange: (offset, target) => inner.readRange(offset, target),
      close: () => {
        closed = true;
        inner.close();
      },
    };
    const file = TokenFile.open(path, { reader });
    const window = new Int32Array(3);
    file.read(50, window);
    expect([...window]).toEqual([50, 51, 52]);
    file.close();
    expect(closed).toBe(true);
    expect(() => file.read(0, window)).toThrow(/was closed/);
  });

  it("refuses another tokenizer and damaged files, and closes what it opened", async () => {
    const { path } = await tokenFile("x", [range(0, 100)]);
    expect(() => TokenFile.open(path, { tokenizer: { hash: "other" } })).toThrow(
      expect.objectContaining({ code: "DATA_WRONG_TOKENIZER" }),
    );
    const good = await readFile(path);
    const overwritten = (value: number, offset: number) => {
      const bytes = Buffer.from(good);
      bytes[offset] = value;
      return bytes;
    };
    const damaged = [
      good.subarray(0, 100),
      good.subarray(0, good.length - 1),
      Buffer.concat([good, Buffer.alloc(8)]),
      overwritten(0x58, 0), // the magic
      overwritten(0x80, 11), // a header length of over 2^31
      overwritten(0x7d, 12), // JSON that starts with }
    ];
    for (const bytes of damaged) {
      await writeFile(path, bytes);
      expect(() => TokenFile.open(path)).toThrow(expect.objectContaining({ code: "DATA_DAMAGED_TOKEN_FILE" }));
    }
    const beyond = Buffer.from(good);
    beyond.writeUInt16LE(1000, 4096);
    await writeFile(path, beyond);
    const file = TokenFile.open(path);
    opened.push(file);
    expect(() => file.read(0, new Int32Array(1))).toThrow(expect.objectContaining({ code: "DATA_DAMAGED_TOKEN_FILE" }));
  });

  it("appears only when finished", async () => {
    const writer = await TokenFileWriter.create(join(folder, "y"), { hash: "h", vocabSize: 10 });
    await writer.append([1, 2], 2);
    expect(await readdir(folder)).toEqual([expect.stringMatching(/^\.tmp-y/)]);
    await writer.abort();
    expect(await readdir(folder)).toEqual([]);
  });
});

describe("TokenMixture", () => {
  const rowsOf = ({ batch, sequence, tokens }: TokenBatch) =>
    range(0, batch).map((row) => [...tokens.subarray(row * sequence, (row + 1) * sequence)]);

  it("gives every window once per epoch, with targets one ahead", async () => {
    const file = await tokenFile("x", [range(0, 50)]);
    const mixture = new TokenMixture({ domains: [{ name: "x", file, weight: 3 }], batch: 2, sequence: 4, seed: 1 });
    const orders: string[] = [];
    for (let epoch = 0; epoch < 2; epoch++) {
      const starts: number[] = [];
      for (let i = 0; i < 6; i++) {
        const batch = mixture.next();
        for (const row of rowsOf(batch)) {
          const start = row[0] as number;
          expect(row).toEqual(range(start, start + 4));
          starts.push(start);
        }
        expect(batch.targets).toEqual(batch.tokens.map((token) => token + 1));
        expect(batch.segments).toBeUndefined();
      }
      expect([...starts].sort((a, b) => a - b)).toEqual(range(0, 12).map((window) => window * 4)); // 49 predictions: 12 windows
      orders.push(starts.join());
    }
    expect(orders[0]).not.toBe(orders[1]);
    expect(mixture.usage()).toEqual([{ name: "x", rows: 24, tokens: 96, epochs: 2 }]);
  });

  it("marks documents and predicts nothing across their ends", async () => {
    const file = await tokenFile("x", [[1, 2, 3], [4, 5], range(6, 12)]);
    const mixture = new TokenMixture({
      domains: [{ name: "x", file, weight: 1 }],
      batch: 1,
      sequence: 5,
      seed: 0,
      documents: "apart",
    });
    const seen = new Map([mixture.next(), mixture.next()].map((batch) => [batch.tokens[0], batch]));
    expect([...(seen.get(1)?.segments ?? [])]).toEqual([0, 0, 0, 1, 1]);
    expect([...(seen.get(1)?.targets ?? [])]).toEqual([2, 3, ignoredTarget, 5, ignoredTarget]);
    expect([...(seen.get(1)?.positions ?? [])]).toEqual([0, 1, 2, 0, 1]);
    expect([...(seen.get(6)?.segments ?? [])]).toEqual([0, 0, 0, 0, 0]);
    expect([...(seen.get(6)?.targets ?? [])]).toEqual([7, 8, 9, 10, 11]);
  });

  const domainsOf = async () => [
    { name: "a", file: await tokenFile("a", [range(0, 101)]), weight: 1 },
    { name: "b", file: await tokenFile("b", [range(200, 330)]), weight: 0 },
    { name: "c", file: await tokenFile("c", [range(400, 900)]), weight: 3 },
  ];

  it("draws domains by weight and says which", async () => {
    const mixture = new TokenMixture({ domains: await domainsOf(), batch: 100, sequence: 4, seed: 5 });
    for (let i = 0; i < 100; i++) {
      const batch = mixture.next();
      for (const [row, [first]] of rowsOf(batch).entries())
        expect(batch.domain[row]).toBe((first as number) < 200 ? 0 : 2);
    }
    const [a, b, c] = mixture.usage();
    expect((a?.rows ?? 0) + (c?.rows ?? 0)).toBe(10_000);
    expect(b).toMatchObject({ rows: 0, tokens: 0 });
    // binomial: mean 2500, standard deviation 43
    expect(Math.abs((a?.rows ?? 0) - 2500)).toBeLessThan(5 * 43);
    expect(c?.tokens).toBe((c?.rows ?? 0) * 4);
  });

  it("goes on exactly after a restore, with another batch size too", async () => {
    const options: MixtureOptions = { domains: await domainsOf(), batch: 6, sequence: 4, seed: 8, documents: "apart" };
    const whole = new TokenMixture(options);
    const rows = range(0, 20).flatMap(() => rowsOf(whole.next()));
    for (const stop of [0, 1, 7, 13]) {
      const first = new TokenMixture(options);
      for (let i = 0; i < stop; i++) first.next();
      const state: unknown = JSON.parse(JSON.stringify(first.state()));
      for (const batch of [6, 3]) {
        const resumed = new TokenMixture({ ...options, batch });
        resumed.next(); // restore must not depend on where it was
        resumed.restore(state);
        const rest = range(0, ((20 - stop) * 6) / batch).flatMap(() => rowsOf(resumed.next()));
        expect(rest).toEqual(rows.slice(stop * 6));
        expect(resumed.usage()).toEqual(whole.usage());
      }
    }
  });

  it("refuses cursors of other data or options", async () => {
    const options: MixtureOptions = { domains: await domainsOf(), batch: 2, sequence: 4, seed: 8 };
    const state = new TokenMixture(options).state();
    const mismatch = expect.objectContaining({ code: "DATA_CURSOR_MISMATCH" });
    const restore = (changed: Partial<MixtureOptions>) => () =>
      new TokenMixture({ ...options, ...changed }).restore(state);
    expect(restore({ seed: 9 })).toThrow(mismatch);
    expect(restore({ sequence: 5 })).toThrow(mismatch);
    expect(restore({ domains: options.domains.slice(1) })).toThrow(mismatch);
    const longer = await tokenFile("longer", [range(0, 102)]);
    expect(restore({ domains: options.domains.with(0, { name: "a", file: longer, weight: 1 }) })).toThrow(mismatch);
    expect(() => new TokenMixture(options).restore({ rows: -1 })).toThrow(mismatch);
    expect(restore({})).not.toThrow();
  });

  it("refuses options that give no batches", async () => {
    const domains = await domainsOf();
    const short = { name: "short", file: await tokenFile("short", [range(0, 4)]), weight: 1 };
    const make = (changed: Partial<MixtureOptions>) => () =>
      new TokenMixture({ domains, batch: 1, sequence: 4, seed: 0, ...changed });
    expect(make({ domains: [short] })).toThrow(
      expect.objectContaining({ code: "DATA_EMPTY", message: expect.stringContaining("short") }),
    );
    const invalid = expect.objectContaining({ code: "DATA_INVALID_OPTION" });
    const weights = (...values: number[]) => ({
      domains: domains.map((domain, i) => ({ ...domain, weight: values[i] as number })),
    });
    for (const change of [
      { batch: 0 },
      { sequence: 1.5 },
      { seed: -1 },
      { domains: [] },
      { domains: [...domains, ...domains] },
      weights(0, 0, 0),
      weights(1, -1, 1),
      weights(1, Number.NaN, 1),
      weights(1, Infinity, 1),
    ]) {
      expect(make(change)).toThrow(invalid);
    }
    expect(make({ domains: [{ ...short, weight: 0 }, ...domains] })).not.toThrow();
    expect(make({ batch: 1e14 })).toThrow(expect.objectContaining({ code: "TREFOIL_OUT_OF_MEMORY" }));
  });
});

describe("evaluationBatches", () => {
  it("predicts every token but the first exactly once", async () => {
    for (const tokens of [2, 9, 10, 30, 33]) {
      const file = await tokenFile(`x${tokens}`, [range(0, tokens)]);
      const predicted: number[] = [];
      for (const { tokens: inputs, targets, batch, sequence } of evaluationBatches(file, { batch: 3, sequence: 4 })) {
        expect([batch, sequence, inputs.length]).toEqual([3, 4, 12]);
        for (const [i, target] of targets.entries()) {
          if (target === ignoredTarget) continue;
          expect(target).toBe((inputs[i] as number) + 1);
          predicted.push(target);
        }
      }
      expect(predicted).toEqual(range(1, tokens));
    }
  });

  it("spreads a limited number of windows over the file", async () => {
    const file = await tokenFile("x", [range(0, 401)]);
    const starts = [...evaluationBatches(file, { batch: 1, sequence: 4, maxWindows: 5 })].map(
      ({ tokens }) => tokens[0],
    );
    expect(starts).toEqual([0, 80, 160, 240, 320]);
    const single = await tokenFile("single", [[1]]);
    expect(() => [...evaluationBatches(single, { batch: 1, sequence: 4 })]).toThrow(
      expect.objectContaining({ code: "DATA_EMPTY" }),
    );
  });

  it("refuses options that give no batches, or no end of them", async () => {
    const file = await tokenFile("x", [range(0, 9)]);
    for (const change of [{ batch: 0 }, { batch: -1 }, { batch: 1.5 }, { sequence: 0 }, { maxWindows: 0 }]) {
      expect(() => evaluationBatches(file, { batch: 1, sequence: 4, ...change }).next()).toThrow(
        expect.objectContaining({ code: "DATA_INVALID_OPTION" }),
      );
    }
  });
});

describe("prepareTokens", () => {
  const keep = <T extends { train: TokenFile; heldOut?: TokenFile }>(prepared: T): T => {
    opened.push(prepared.train, ...(prepared.heldOut ? [prepared.heldOut] : []));
    return prepared;
  };
  const decodeAll = (file: TokenFile) => {
    const ids = new Int32Array(file.tokens);
    file.read(0, ids);
    return tokenizer.decode(ids, { specialTokens: true });
  };

  it("splits by document without leakage, ends each document, and reuses its files", async () => {
    const texts = range(0, 200).map((i) => `document ${i % 150} é`); // 50 texts occur twice
    const source = { paths: [join(folder, "docs.jsonl")] };
    await writeFile(source.paths[0] as string, texts.map((text) => JSON.stringify({ text })).join("\n"));
    const out = join(folder, "tokens");
    const options = { tokenizer, heldOutFraction: 0.3, seed: 4 };
    const progress: number[] = [];
    const first = keep(
      await prepareTokens(out, source, { ...options, onProgress: ({ documents }) => progress.push(documents) }),
    );
    expect(first.reused).toBe(false);
    expect(progress.at(-1)).toBe(200);
    const [train, heldOut] = [decodeAll(first.train), decodeAll(first.heldOut as TokenFile)].map((text) =>
      text.split("</s>").slice(0, -1),
    );
    expect([...(train ?? []), ...(heldOut ?? [])].sort()).toEqual([...texts].sort());
    const trained = new Set(train);
    expect(heldOut?.some((text) => trained.has(text))).toBe(false);
    expect(first.train.documents).toBe(train?.length);
    expect(first.train.header.textBytes).toBe(Buffer.byteLength(train?.join("") ?? ""));

    const again = keep(await prepareTokens(out, source, options));
    expect(again.reused).toBe(true);
    expect(keep(await prepareTokens(out, source, { ...options, seed: 5 })).reused).toBe(false);
    await truncate(join(out, "train.tokens"), 5000);
    expect(keep(await prepareTokens(out, source, { ...options, seed: 5 })).reused).toBe(false);
    await writeFile(source.paths[0] as string, '{"text":"new"}\n{"text":"newer"}');
    const changed = keep(await prepareTokens(out, source, { tokenizer }));
    expect(decodeAll(changed.train)).toBe("new</s>newer</s>");
    expect(changed.heldOut).toBeUndefined();
  });

  it("leaves nothing when it fails or is stopped", async () => {
    await writeFile(join(folder, "one.txt"), "only one document");
    const out = join(folder, "tokens");
    const missing = { paths: [join(folder, "missing.txt")] };
    await expect(prepareTokens(out, missing, { tokenizer })).rejects.toMatchObject({ code: "DATA_NOT_FOUND" });
    await expect(readdir(out)).rejects.toMatchObject({ code: "ENOENT" });
    const source = { paths: [join(folder, "one.txt")] };
    await expect(prepareTokens(out, source, { tokenizer, heldOutFraction: 0.5 })).rejects.toMatchObject({
      code: "DATA_EMPTY",
    });
    // The content hashes of the source stay: they hold for the next try.
    expect(await readdir(out)).toEqual(["files.json"]);
    await writeFile(join(folder, "many.txt"), "word\n".repeat(200_000));
    const lines = { paths: [join(folder, "many.txt")], unit: "line" as const };
    await expect(prepareTokens(out, lines, { tokenizer, signal: AbortSignal.abort() })).rejects.toMatchObject({
      name: "AbortError",
    });
    expect(await readdir(out)).toEqual(["files.json"]);
  });

  it("keeps a special token written in a document from ending it", async () => {
    await writeFile(join(folder, "a.txt"), "before </s> after");
    const { train } = keep(
      await prepareTokens(join(folder, "tokens"), { paths: [join(folder, "a.txt")] }, { tokenizer }),
    );
    const ids = new Int32Array(train.tokens);
    train.read(0, ids);
    expect(ids.filter((id) => id === tokenizer.eosTokenId).length).toBe(1);
  });
});
