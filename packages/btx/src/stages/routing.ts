import { compile, type Mixtral, ones, reshape, scatterLast, sum, type Tensor, tensor } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { type WindowOptions, windowBatches } from "./bits-per-byte.js";

/** How one domain's tokens were sent to experts. */
export interface DomainRouting {
  domain: string;
  /** [layer][expert]: share of the choices; each layer sums to 1. */
  share: number[][];
  /** [layer][expert]: mean gate weight; each layer sums to what the gates of a token do, 1 but for `switch` and `raw-top-k`. */
  weight: number[][];
}

/** Routing of held-out text: domain × layer × expert; layers that are no mixtures are left out. */
export async function routingTable(
  model: Mixtral,
  domains: readonly DomainTokens[],
  options: WindowOptions,
  signal?: AbortSignal,
): Promise<DomainRouting[]> {
  const { experts, moeLayers } = model.config;
  const layers = moeLayers?.length ?? model.config.layers;
  const count = compile((tokens: Tensor, mask: Tensor) =>
    model.hidden(tokens).routing.map(({ indices, weights }) => {
      const total = (perExpert: Tensor) => sum(scatterLast(perExpert, indices, experts).mul(mask), { axes: 0 });
      return { share: total(ones(indices.shape)), weight: total(weights) };
    }),
  );
  const table: DomainRouting[] = [];
  for (const { name, heldOut } of domains) {
    const empty = () => Array.from({ length: layers }, () => new Array<number>(experts).fill(0));
    const sums = { share: empty(), weight: empty() };
    let seen = 0;
    for (const { tokens, targets, batch, sequence } of windowBatches(heldOut, options)) {
      signal?.throwIfAborted();
      const mask = Float32Array.from(targets, (target) => Number(target >= 0));
      const counted = await count(
        tensor(tokens, { shape: [batch, sequence] }),
        tensor(mask, { shape: [mask.length, 1] }),
      );
      for (const [layer, found] of counted.entries()) {
        for (const kind of ["share", "weight"] as const) {
          (await found[kind].data()).forEach((value, expert) => {
            sums[kind][layer]![expert]! += value;
          });
        }
      }
      seen += mask.reduce((a, b) => a + b, 0);
    }
    table.push({
      domain: name,
      share: sums.share.map((row) => {
        // Layers may differ in the number of choices.
        const choices = row.reduce((a, b) => a + b, 0);
        return row.map((value) => value / choices);
      }),
      weight: sums.weight.map((row) => row.map((value) => value / seen)),
    });
  }
  return table;
}

/** The first choice of each token of a text in each layer, and its gate weight. */
export async function firstChoices(
  model: Mixtral,
  ids: Int32Array,
): Promise<{ expert: Int32Array; weight: Float32Array }[]> {
  const choose = compile((tokens: Tensor) =>
    model.hidden(tokens).routing.map(({ indices, weights }) => ({
      expert: reshape(indices.slice(1, 0, 1), [-1]),
      weight: reshape(weights.slice(1, 0, 1), [-1]),
    })),
  );
  const layers = await choose(tensor(ids, { shape: [1, ids.length] }));
  const read = async ({ expert, weight }: { expert: Tensor; weight: Tensor }) => ({
    expert: (await expert.data()) as Int32Array,
    weight: (await weight.data()) as Float32Array,
  });
  return await Promise.all(layers.map(read));
}
