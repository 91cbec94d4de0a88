import { conv2d, gradients, matmul, sum, upsampleNearest2 } from "@trefoil/core";
import { openProgram, programSide, uniform } from "../measure/program.js";
import type { Case } from "../measure/side.js";

interface Layer {
  /** Height and width of the image that comes in. */
  size: number;
  from: number;
  to: number;
  stride?: number;
  /** Every pixel four times before the convolution, as a decoder does; not counted, here or there. */
  upsampled?: boolean;
}

const kernel = 3;

function convolution(
  images: number,
  { size, from, to, stride = 1, upsampled = false }: Layer,
  backward: boolean,
): Case {
  const side = (upsampled ? 2 * size : size) / stride;
  const [rows, window] = [images * side * side, kernel * kernel * from];
  const how = `${stride > 1 ? ` stride ${stride}` : ""}${upsampled ? " upsampled" : ""}`;
  return {
    family: "conv2d",
    name: `${images}x${size}x${size} ${from}→${to}${how} ${backward ? "backward" : "forward"}`,
    unit: "GFLOP/s",
    amount: 2 * rows * window * to * (backward ? 2 : 1),
    bound: "compute",
    async open() {
      const [x, w] = [uniform(images, size, size, from), uniform(to, kernel, kernel, from)];
      const dy = uniform(images, side, side, to);
      const [unfolded, matrix, flat] = [uniform(rows, window), uniform(to, window), uniform(rows, to)];
      const body = () => {
        const input = upsampled ? upsampleNearest2(x) : x;
        const y = conv2d(input, w, null, { stride, padding: stride === 1 ? 1 : [0, 1] });
        return backward ? gradients(sum(y.mul(dy)), [input, w]) : y;
      };
      const products = () =>
        backward
          ? [matmul(flat, matrix), matmul(flat, unfolded, { transposeA: true })]
          : matmul(unfolded, matrix, { transposeB: true });
      const ops = backward ? ["conv2d_input_grad", "conv2d_weight_grad"] : ["conv2d"];
      return {
        ...openProgram([x, w, dy, unfolded, matrix, flat], body, ops),
        references: [programSide("matmul of this size", products, ["matmul"])],
      };
    },
    torch: { kernel: "conv2d", images, size: upsampled ? 2 * size : size, channels: [from, to], stride, backward },
  };
}

/** The 3x3 layers of a VQ-GAN over images of 64 pixels, beside plain products of the same size. */
export function convolutionCases(quick: boolean): Case[] {
  const layers: Layer[] = quick
    ? [
        { size: 8, from: 4, to: 8, stride: 2 },
        { size: 4, from: 8, to: 4, upsampled: true },
      ]
    : [
        { size: 64, from: 3, to: 64 },
        { size: 64, from: 64, to: 128, stride: 2 },
        { size: 32, from: 128, to: 128 },
        { size: 32, from: 128, to: 64, upsampled: true },
        { size: 64, from: 64, to: 3 },
      ];
  return layers.flatMap((layer) => [false, true].map((backward) => convolution(quick ? 1 : 4, layer, backward)));
}
