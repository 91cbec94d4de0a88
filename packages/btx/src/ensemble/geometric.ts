import {
  type CausalLM,
  compile,
  concat,
  linearCrossEntropy,
  reshape,
  type Tensor,
  type TokenBatch,
  tensor,
} from "@trefoil/core";
import type { WindowNats } from "./windows.js";

/**
 * Nats of each token under the geometric mean, `p(x) ∝ Π_j p_j(x)^w_j`. Its logits are weighted sums of the models', and so the product
 * of their hidden states, weighted and side by side, with their output matrices side by side: no `[tokens, vocabulary]` is held.
 * @param weights of each model for each token, [models][window * sequence]
 */
export async function geometricNats(
  models: readonly CausalLM[],
  batches: readonly TokenBatch[],
  weights: readonly Float64Array[],
  signal?: AbortSignal,
): Promise<WindowNats> {
  const program = compile((tokens: Tensor, targets: Tensor, share: Tensor[]) => {
    const rows = tokens.size;
    const states = models.map((model, j) =>
      reshape(model.hidden(tokens).hidden, [rows, model.config.hiddenSize]).mul(share[j]!),
    );
    const heads = models.map((model) => model.headWeight);
    return linearCrossEntropy(concat(states, 1), concat(heads, 1), reshape(targets, [rows])).nll;
  });
  const all = new Float32Array(weights[0]!.length);
  let at = 0;
  for (const { tokens, targets, batch, sequence } of batches) {
    signal?.throwIfAborted();
    const rows = batch * sequence;
    const share = weights.map((own) => tensor(Float32Array.from(own.subarray(at, at + rows)), { shape: [rows, 1] }));
    const shape = [batch, sequence];
    const nats = await program(tensor(tokens, { shape }), tensor(targets, { shape }), share);
    all.set((await nats.data()) as Float32Array, at);
    at += rows;
  }
  return all;
}
