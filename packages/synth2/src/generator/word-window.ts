import {
  add,
  concat,
  type InitialValues,
  iota,
  Linear,
  less,
  Module,
  pad,
  RMSNorm,
  reshape,
  slice,
  type Tensor,
  where,
} from "@trefoil/core";

/**
 * Adds to every word what stands around it: a convolution along the caption. Which colour, size and place belong to which shape is a
 * matter of neighbours; attention that begins flat reads captions as bags of words, and stays there for thousands of updates.
 */
export class WordWindow extends Module {
  readonly norm: RMSNorm;
  /** [width, (2 reach + 1) width]: the words from `reach` before to `reach` behind. */
  readonly mix: Linear;

  /** @param reach words on each side */
  constructor(
    width: number,
    readonly reach: number,
    initial: InitialValues,
  ) {
    super();
    this.norm = new RMSNorm(width);
    this.mix = new Linear((2 * reach + 1) * width, width, { bias: false, initial });
  }

  /**
   * @param x [batch, words, width]
   * @param lengths i32 [batch]: what lies beyond is as if it were not there
   */
  forward(x: Tensor, lengths: Tensor): Tensor {
    const [batch, words] = x.shape as [number, number];
    const real = less(reshape(iota(words), [1, words, 1]), reshape(lengths, [batch, 1, 1]));
    const inner = where(real, this.norm.forward(x), 0);
    const wide = pad(inner, 1, this.reach, words + 2 * this.reach);
    const shifted = Array.from({ length: 2 * this.reach + 1 }, (_, i) => slice(wide, 1, i, i + words));
    return add(x, this.mix.forward(concat(shifted, 2)));
  }
}
