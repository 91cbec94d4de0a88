import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import {
  compile,
  InitialValues,
  ignoredTarget,
  Llama,
  PackedRows,
  type Tensor,
  type TokenBatch,
  TokenFile,
  TokenFileWriter,
  TokenMixture,
  tensor,
  valueAndGrad,
} from "../../src/index.js";

let folder: string;
const opened: TokenFile[] = [];
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "trefoil-test-"));
});
afterEach(async () => {
  for (const file of opened.splice(0)) file.close();
  await rm(folder, { recursive: true });
});

async function tokenFile(name: string, documents: readonly (readonly number[])[], vocabSize = 40): Promise<TokenFile> {
  const writer = await TokenFileWriter.create(join(folder, name), { hash: "h", vocabSize });
  for (const document of documents) {
    await writer.append(document, document.length);
    writer.endDocument();
  }
  await writer.finish();
  const file = TokenFile.open(join(folder, name));
  opened.push(file);
  return file;
}

const random = new InitialValues(11);
const below = (bound: number) => Math.floor(random.next() * bound);
const documentOf = (length: number) => Array.from({ length }, () => 1 + below(39));

/** Each row's segments as their tokens and targets, padding left out. */
function documentsOf({ batch, sequence, tokens, targets, segments, positions }: TokenBatch) {
  return Array.from({ length: batch }, (_, row) => {
    const found = new Map<number, { tokens: number[]; targets: number[]; positions: number[] }>();
    for (let at = row * sequence; at < (row + 1) * sequence; at++) {
      const document = found.get(segments![at]!) ?? { tokens: [], targets: [], positions: [] };
      document.tokens.push(tokens[at]!);
      document.targets.push(targets[at]!);
      document.positions.push(positions![at]!);
      found.set(segments![at]!, document);
    }
    return [...found.values()].filter((document) => document.targets.some((target) => target !== ignoredTarget));
  });
}

describe("packing", () => {
  it("puts every prediction of every document into exactly one row, and cuts only what is longer than a row", async () => {
    const sequence = 16;
    const documents = [...Array.from({ length: 300 }, () => documentOf(1 + below(20))), documentOf(70), [7]];
    const file = await tokenFile("x", documents);
    const rows = new PackedRows(file, sequence);
    const mixture = new TokenMixture({
      domains: [{ name: "x", file, weight: 1 }],
      batch: rows.rows,
      sequence,
      seed: 3,
      documents: "packed",
    });
    const expected = documents.flatMap((document) => {
      const pieces = [];
      for (let at = 0; at < document.length - 1; at += sequence) {
        const tokens = document.slice(at, Math.min(at + sequence, document.length - 1));
        pieces.push({ tokens, targets: document.slice(at + 1, at + 1 + tokens.length), positions: [...tokens.keys()] });
      }
      return pieces;
    });
    const packed = documentsOf(mixture.next());
    const sorted = (list: object[]) => list.map((each) => JSON.stringify(each)).sort();
    expect(sorted(packed.flat())).toEqual(sorted(expected));
    const positions = expected.reduce((sum, { tokens }) => sum + tokens.length, 0);
    expect(rows.positions).toBe(positions);
    expect(mixture.usage()).toEqual([{ name: "x", rows: rows.rows, tokens: positions, epochs: 1 }]);
    // Best fit leaves at most a few rows more than full rows would be.
    expect(rows.rows).toBeLessThanOrEqual(Math.ceil(positions / sequence) + 2);
  });

  it("finds the row with the least room that suffices", async () => {
    // 6 + 2, 5 + 3, 4 + 4: nothing is left over only if each finds its best fit.
    const file = await tokenFile(
      "x",
      [4, 2, 6, 5, 3, 4].map((length) => documentOf(length + 1)),
    );
    expect(new PackedRows(file, 8).rows).toBe(3);
  });

  it("resumes where it was", async () => {
    const file = await tokenFile(
      "x",
      Array.from({ length: 60 }, () => documentOf(2 + below(30))),
    );
    const options = { domains: [{ name: "x", file, weight: 1 }], batch: 3, sequence: 16, seed: 1 };
    const whole = new TokenMixture({ ...options, documents: "packed" });
    const batches = Array.from({ length: 8 }, () => whole.next());
    const first = new TokenMixture({ ...options, documents: "packed" });
    for (let i = 0; i < 5; i++) first.next();
    const resumed = new TokenMixture({ ...options, documents: "packed" });
    resumed.restore(JSON.parse(JSON.stringify(first.state())));
    expect([resumed.next(), resumed.next(), resumed.next()]).toEqual(batches.slice(5));
    expect(resumed.usage()).toEqual(whole.usage());
    const state = first.state();
    expect(() => new TokenMixture(options).restore(state)).toThrow(/documents packed, this run joined/);
  });

  it("leaves what the mask says out of the targets, in every layout", async () => {
    const documents = Array.from({ length: 20 }, () => documentOf(12));
    const file = await tokenFile("x", documents);
    // Even tokens count.
    const mask = await tokenFile(
      "m",
      documents.map((document) => document.map((token) => (token + 1) % 2)),
      2,
    );
    for (const layout of ["joined", "apart", "packed"] as const) {
      const options = { batch: 4, sequence: 16, seed: 0, documents: layout };
      const plain = new TokenMixture({ domains: [{ name: "x", file, weight: 1 }], ...options }).next();
      const masked = new TokenMixture({ domains: [{ name: "x", file, mask, weight: 1 }], ...options }).next();
      expect(masked.tokens).toEqual(plain.tokens);
      expect(masked.targets).toEqual(plain.targets.map((target) => (target % 2 === 0 ? target : ignoredTarget)));
      expect(masked.targets.some((target) => target >= 0)).toBe(true);
    }
  });

  it("gives the loss and gradients of documents on their own", async () => {
    const documents = Array.from({ length: 9 }, () => documentOf(3 + below(14)));
    const file = await tokenFile("x", documents);
    const rows = new PackedRows(file, 24).rows;
    const mixture = new TokenMixture({
      domains: [{ name: "x", file, weight: 1 }],
      batch: rows,
      sequence: 24,
      seed: 0,
      documents: "packed",
    });
    const { tokens, targets, segments, positions } = mixture.next();
    const model = new Llama(
      {
        vocabSize: 40,
        hiddenSize: 16,
        intermediateSize: 32,
        layers: 2,
        heads: 2,
        keyValueHeads: 1,
        headDim: 8,
        rmsNormEps: 1e-5,
        ropeTheta: 1e4,
        tieWordEmbeddings: true,
        maxPositions: 24,
        initializerRange: 0.3,
      },
      1,
    );
    const parameters = model.parameters();
    const count = targets.filter((target) => target >= 0).length;
    const run = compile((input: Tensor, target: Tensor, weights: Tensor, context: Record<string, Tensor>) =>
      valueAndGrad(() => model.loss(input, target, { weights, ...context }).loss, parameters),
    );
    const shape = [rows, 24];
    const weightsOf = (list: ArrayLike<number>) => Float32Array.from(list, (target) => (target >= 0 ? 1 / count : 0));
    const packed = await run(
      tensor(tokens, { shape }),
      tensor(targets, { shape }),
      tensor(weightsOf(targets), { shape }),
      { segments: tensor(segments!, { shape }), positions: tensor(positions!, { shape }) },
    );
    let loss = 0;
    const sums = parameters.map(({ size }) => new Float64Array(size));
    for (const document of documents) {
      const [input, target] = [Int32Array.from(document.slice(0, -1)), Int32Array.from(document.slice(1))];
      const one = { shape: [1, input.length] };
      const weights = tensor(weightsOf(target), one);
      const { value, grads } = await run(tensor(input, one), tensor(target, one), weights, {});
      loss += await value.item();
      for (const [i, gradient] of grads.entries()) {
        (await gradient.data()).forEach((each, at) => {
          sums[i]![at]! += each;
        });
      }
    }
    expect(await packed.value.item()).toBeCloseTo(loss, 5);
    for (const [i, gradient] of packed.grads.entries()) {
      const scale = Math.max(...sums[i]!.map(Math.abs));
      // f32 sums of the same terms in another order.
      (await gradient.data()).forEach((value, at) => {
        expect(Math.abs(value - sums[i]![at]!)).toBeLessThan(2e-5 * scale);
      });
    }
  });
});
