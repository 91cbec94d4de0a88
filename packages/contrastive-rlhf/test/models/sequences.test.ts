import { compile, type Tensor } from "@trefoil/core";
import { expect, test } from "vitest";
import {
  type Episode,
  OpenPolicy,
  packedBatch,
  responseLogProbs,
  type SequenceBatch,
  sequenceBatch,
} from "../../src/index.js";
import { temporaryFolder, trainSmallPolicy } from "../stages/small.js";

test("episodes packed into one row have the log-probabilities of padded rows", async () => {
  await using folder = await temporaryFolder();
  using policy = await OpenPolicy.open(await trainSmallPolicy(folder.path, 5));
  const { model } = policy;
  const episode = (prompt: string, response: string): Episode => ({
    prompt: Int32Array.from(Buffer.from(prompt)),
    response: Int32Array.from(Buffer.from(response)),
  });
  const episodes = [episode("abcd=", "dcba"), episode("k", "x"), episode("efgh=", "hgfehgfe"), episode("ij", "jij")];
  // One row stays empty. More tokens in all than the model has positions.
  const sizes = { rows: 5, sequence: 16, response: 8 };
  const run = compile((batch: SequenceBatch & { positions?: Tensor; segments?: Tensor }) => {
    const { tokens, positions, segments } = batch;
    const context = { ...(positions && { positions }), ...(segments && { segments }) };
    return responseLogProbs(model, batch, 0.7, model.hidden(tokens, context).hidden);
  });
  const packed = packedBatch(episodes, sizes);
  expect(packed.tokens.shape).toEqual([1, 32]);
  const [a, b] = [await run(packed), await run(sequenceBatch(episodes, sizes))];
  const [mask, entropies, expected] = [await packed.mask.data(), await a.entropy.data(), await b.entropy.data()];
  const [own, other] = [await a.logProbs.data(), await b.logProbs.data()];
  expect(Array.from(mask).filter((each) => each === 1)).toHaveLength(4 + 1 + 8 + 3);
  for (let i = 0; i < mask.length; i++) {
    // Rounding of sums in another order.
    expect(Math.abs(own[i]! - other[i]!)).toBeLessThan(1e-5);
    if (mask[i]) expect(Math.abs(entropies[i]! - expected[i]!)).toBeLessThan(1e-5);
  }
});
