import { compile, type Tensor, tensor } from "@trefoil/core";
import type { LanguageModel } from "../captions/language-model.js";
import type { EmbeddedDataset } from "../types.js";
import type { VisionLanguageModel } from "./model.js";
import { captionTargets } from "./targets.js";

export interface PictureUse {
  /** Cross-entropy of captions given their own pictures, nats per token. */
  own: number;
  /** Given other pictures of the dataset: a model that does not look at pictures has the same. */
  other: number;
}

/** Whether a model reads its pictures: the cross-entropy of each sample's first caption beside its own and beside another picture. */
export async function measurePictureUse(
  model: VisionLanguageModel,
  data: EmbeddedDataset,
  options: { language: LanguageModel; maxTextTokens: number; batch?: number },
): Promise<PictureUse> {
  const { positions, dimension, length } = data;
  const lossOf = compile((pictures: Tensor, tokens: Tensor, targets: Tensor, weights: Tensor) =>
    model.loss(pictures, { tokens, targets, weights }),
  );
  const picturesOf = async (indices: readonly number[]): Promise<Tensor> => {
    const embeddings = new Float32Array(indices.length * positions * dimension);
    for (const [row, index] of indices.entries()) {
      embeddings.set((await data.get(index)).embedding, row * positions * dimension);
    }
    return tensor(embeddings, { shape: [indices.length, positions, dimension] });
  };
  const total: PictureUse = { own: 0, other: 0 };
  let tokensSeen = 0;
  const batch = Math.min(options.batch ?? 32, length);
  for (let at = 0; at < length; at += batch) {
    const indices = Array.from({ length: Math.min(batch, length - at) }, (_, i) => at + i);
    const captions: string[] = [];
    for (const index of indices) captions.push((await data.get(index)).captions[0]!);
    const { tokens, targets, weights, count } = captionTargets(captions, options);
    const others = indices.map((index) => (index + Math.ceil(length / 2)) % length);
    for (const [name, shown] of [["own", indices] as const, ["other", others] as const]) {
      total[name] += count * (await (await lossOf(await picturesOf(shown), tokens, targets, weights)).item());
    }
    tokensSeen += count;
  }
  return { own: total.own / tokensSeen, other: total.other / tokensSeen };
}
