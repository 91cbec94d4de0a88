import { attention, gradients, Parameter, sum } from "@trefoil/core";
import { openProgram, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

interface AttentionSize {
  batch: number;
  sequence: number;
  heads: number;
  keyValueHeads: number;
  headDim: number;
}

function causal(size: AttentionSize, backward: boolean): Case {
  const { batch, sequence, heads, keyValueHeads, headDim } = size;
  const grouping = keyValueHeads === heads ? "" : `/${keyValueHeads}`;
  // Two products forward, five backward, over the half that the mask leaves.
  const product = 2 * batch * heads * headDim * ((sequence * (sequence + 1)) / 2);
  return {
    family: "attention",
    name: `${batch}x${sequence} heads ${heads}${grouping}x${headDim} ${backward ? "forward+backward" : "forward"}`,
    unit: "GFLOP/s",
    amount: product * (backward ? 7 : 2),
    bound: "compute",
    async open() {
      const q = uniform(batch, sequence, heads, headDim);
      const k = uniform(batch, sequence, keyValueHeads, headDim);
      const v = uniform(batch, sequence, keyValueHeads, headDim);
      const dout = uniform(batch, sequence, heads, headDim);
      const body = () => {
        const out = attention(q, k, v, { causal: true });
        return backward ? gradients(sum(out.mul(dout)), [q, k, v]) : out;
      };
      return openProgram([q, k, v, dout], body, ["attention", "attention_grad"]);
    },
    torch: { kernel: "attention", ...snake(size), backward },
  };
}

/** One new token of each row against a cache of `keys` earlier ones: bound by reading the cache. */
function decode({ batch, sequence: keys, heads, keyValueHeads, headDim }: AttentionSize): Case {
  const grouping = keyValueHeads === heads ? "" : `/${keyValueHeads}`;
  return {
    family: "attention",
    name: `decode ${batch} rows, ${keys} keys, heads ${heads}${grouping}x${headDim}`,
    unit: "GB/s",
    amount: 2 * 4 * batch * keys * keyValueHeads * headDim,
    bound: "memory",
    async open() {
      const q = uniform(batch, 1, heads, headDim);
      const k = uniform(batch, keys, keyValueHeads, headDim);
      const v = uniform(batch, keys, keyValueHeads, headDim);
      const keyLengths = new Parameter([batch], { data: new Int32Array(batch).fill(keys), trainable: false });
      return openProgram([q, k, v, keyLengths], () => attention(q, k, v, { causal: true, keyLengths }), ["attention"]);
    },
    torch: { kernel: "attention_decode", ...snake({ batch, sequence: keys, heads, keyValueHeads, headDim }) },
  };
}

const snake = ({ batch, sequence, heads, keyValueHeads, headDim }: AttentionSize) => ({
  batch,
  sequence,
  heads,
  key_value_heads: keyValueHeads,
  head_dim: headDim,
});

/** Causal attention over lengths, head sizes and grouped queries; then decoding. */
export function attentionCases(quick: boolean): Case[] {
  const usual = { heads: 8, keyValueHeads: 8, headDim: 64 };
  if (quick) {
    const small = { ...usual, batch: 2, sequence: 64, keyValueHeads: 2, headDim: 32 };
    return [causal(small, false), causal(small, true), decode(small)];
  }
  const sizes: AttentionSize[] = [
    { ...usual, batch: 16, sequence: 128 },
    { ...usual, batch: 4, sequence: 512 },
    { ...usual, batch: 2, sequence: 1024 },
    { ...usual, batch: 1, sequence: 2048 },
    { ...usual, batch: 1, sequence: 4096 },
    { ...usual, batch: 2, sequence: 1024, keyValueHeads: 2 },
    { ...usual, batch: 2, sequence: 1024, headDim: 32 },
    { ...usual, batch: 2, sequence: 1024, headDim: 128 },
  ];
  return [
    ...sizes.flatMap((size) => [causal(size, false), causal(size, true)]),
    decode({ ...usual, batch: 1, sequence: 4096 }),
    decode({ ...usual, batch: 16, sequence: 1024 }),
    decode({ ...usual, batch: 16, sequence: 4096, keyValueHeads: 2 }),
  ];
}
