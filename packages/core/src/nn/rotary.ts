import type { RopeScaling } from "../io/index.js";
import { allocateHost } from "../tensor/dtype.js";
import { TrefoilError } from "../tensor/errors.js";
import { type Tensor, tensor } from "../tensor/tensor.js";

const fround = Math.fround;

/** Inverse frequencies of each pair, in f32 steps as Hugging Face computes them: theta^(-2i/headDim), then the scaling. */
export function inverseFrequencies(headDim: number, theta: number, scaling?: RopeScaling): Float32Array {
  const base = Float32Array.from({ length: headDim / 2 }, (_, i) => 1 / fround(theta ** fround((2 * i) / headDim)));
  if (!scaling) return base;
  if (scaling.type === "linear") return base.map((frequency) => frequency / scaling.factor);
  if (scaling.type === "other") {
    throw new TrefoilError(
      "TREFOIL_ROPE_SCALING",
      `rope scaling ${JSON.stringify(scaling.raw)} is carried through files but cannot be computed; linear and llama3 can`,
    );
  }
  // Llama 3.1: wavelengths beyond the original context are stretched by `factor`, short ones kept, a ramp between.
  const { factor, lowFrequencyFactor, highFrequencyFactor, originalMaxPositions } = scaling;
  const longest = originalMaxPositions / lowFrequencyFactor;
  const shortest = originalMaxPositions / highFrequencyFactor;
  return base.map((frequency) => {
    const wavelength = (2 * Math.PI) / frequency;
    if (wavelength > longest) return frequency / factor;
    if (wavelength < shortest) return frequency;
    const smooth =
      (originalMaxPositions / wavelength - lowFrequencyFactor) / (highFrequencyFactor - lowFrequencyFactor);
    return ((1 - smooth) * frequency) / factor + smooth * frequency;
  });
}

/** cos and sin of `position * frequency`, both [positions, headDim / 2]. */
export interface RotaryTable {
  cosine: Tensor;
  sine: Tensor;
}

/** The table that `rope` and `SelfAttention` read, for `positions` places. @throws TrefoilError for a scaling that cannot be computed */
export function rotaryTable(positions: number, headDim: number, theta: number, scaling?: RopeScaling): RotaryTable {
  const frequencies = inverseFrequencies(headDim, theta, scaling);
  const half = frequencies.length;
  const table = () =>
    allocateHost("f32", positions * half, `a rotary table of ${positions} positions`, "choose fewer positions");
  const [cosine, sine] = [table(), table()];
  for (let position = 0; position < positions; position++) {
    for (let i = 0; i < half; i++) {
      const angle = fround(position * frequencies[i]!);
      cosine[position * half + i] = Math.cos(angle);
      sine[position * half + i] = Math.sin(angle);
    }
  }
  const shape = [positions, half];
  return { cosine: tensor(cosine, { shape }), sine: tensor(sine, { shape }) };
}
