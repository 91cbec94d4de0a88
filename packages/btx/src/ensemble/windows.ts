import { type CausalLM, compile, type Tensor, type TokenBatch, tensor } from "@trefoil/core";

/** What a model gives each token of some windows: nats, 0 where nothing is predicted; [window * sequence]. */
export type WindowNats = Float32Array;

/** Measures windows under one model, with one compiled program. @returns nats of each target, all batches in order */
export async function windowNats(
  model: CausalLM,
  batches: readonly TokenBatch[],
  signal?: AbortSignal,
): Promise<WindowNats> {
  const nll = compile((tokens: Tensor, targets: Tensor) => model.loss(tokens, targets).nll);
  const parts: Float32Array[] = [];
  for (const { tokens, targets, batch, sequence } of batches) {
    signal?.throwIfAborted();
    const shape = [batch, sequence];
    parts.push((await (await nll(tensor(tokens, { shape }), tensor(targets, { shape }))).data()) as Float32Array);
  }
  const all = new Float32Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * Bits per byte of the targets from position `from` of each window on; what stands before is context.
 * @param byteLengths of each token id
 */
export function bitsPerByteFrom(
  nats: WindowNats,
  batches: readonly TokenBatch[],
  byteLengths: Int32Array,
  from = 0,
): number {
  let total = 0;
  let bytes = 0;
  let at = 0;
  for (const { targets, sequence } of batches) {
    for (let i = 0; i < targets.length; i++, at++) {
      if (targets[i]! < 0 || i % sequence < from) continue;
      total += nats[at]!;
      bytes += byteLengths[targets[i]!]!;
    }
  }
  return total / Math.LN2 / bytes;
}
