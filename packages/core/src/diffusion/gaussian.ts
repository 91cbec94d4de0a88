import { add, divide, maximum, multiply, sqrt, subtract, type TensorLike } from "../ops/elementwise.js";
import { InvalidUseError } from "../tensor/errors.js";
import { full, Tensor } from "../tensor/tensor.js";

/** What a denoiser predicts: the clean value, the noise, or `v = sqrt(a) noise - sqrt(1 - a) clean` (arXiv 2202.00512, section 4). */
export type DenoiserTarget = "x0" | "noise" | "v";

/**
 * ᾱ of the cosine schedule (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17, β at most 0.999): entry t of `steps + 1`, 1 at
 * t = 0.
 */
export function cosineAlphaBar(steps: number): Float64Array {
  if (!Number.isSafeInteger(steps) || steps < 1) {
    throw new InvalidUseError(`cosineAlphaBar: there are ${steps} steps; there must be a whole number >= 1`);
  }
  const ideal = (t: number): number => Math.cos(((t / steps + 0.008) / 1.008) * (Math.PI / 2)) ** 2;
  const result = new Float64Array(steps + 1).fill(1);
  for (let t = 1; t <= steps; t++) result[t] = result[t - 1]! * Math.max(ideal(t) / ideal(t - 1), 1 - 0.999);
  return result;
}

const asTensor = (value: TensorLike): Tensor => (value instanceof Tensor ? value : full([], value));
const complement = (value: TensorLike): Tensor => subtract(1, asTensor(value));

/** `sqrt(ᾱ) clean + sqrt(1 - ᾱ) noise`. alphaBar broadcasts: a number, or a tensor with one entry per sample. */
export function addNoise(clean: Tensor, noise: Tensor, alphaBar: TensorLike): Tensor {
  return add(multiply(clean, sqrt(asTensor(alphaBar))), multiply(noise, sqrt(complement(alphaBar))));
}

/** What a denoiser of this kind should predict for `addNoise(clean, noise, alphaBar)`. */
export function denoiserTarget(target: DenoiserTarget, clean: Tensor, noise: Tensor, alphaBar: TensorLike): Tensor {
  if (target === "x0") return clean;
  if (target === "noise") return noise;
  return subtract(multiply(noise, sqrt(asTensor(alphaBar))), multiply(clean, sqrt(complement(alphaBar))));
}

export interface DdimStep {
  /** The sample at ᾱ = `alphaBar`. */
  sample: Tensor;
  /** What the denoiser said about it, after guidance. */
  prediction: Tensor;
  target: DenoiserTarget;
  /** ᾱ now, in (0, 1), and where the step goes, nearer to 1. Tensors, where one program should serve every step. */
  alphaBar: TensorLike;
  nextAlphaBar: TensorLike;
  /** 0: deterministic (default); 1: as noisy as DDPM. */
  eta?: TensorLike;
  /** Standard normal, needed where eta is not 0. */
  noise?: Tensor;
}

/** One step of DDIM (Song, Meng and Ermon 2021, arXiv 2010.02502, equation 12), from any kind of prediction. */
export function ddimStep(step: DdimStep): Tensor {
  const { sample, prediction, target, eta = 0, noise } = step;
  if (eta !== 0 && !noise) throw new InvalidUseError("ddimStep: eta is not 0; give it noise");
  const [now, next] = [asTensor(step.alphaBar), asTensor(step.nextAlphaBar)];
  const [signal, sigma] = [sqrt(now), sqrt(complement(now))];
  let clean: Tensor;
  let error: Tensor;
  if (target === "x0") {
    clean = prediction;
    error = divide(subtract(sample, multiply(clean, signal)), sigma);
  } else if (target === "noise") {
    error = prediction;
    clean = divide(subtract(sample, multiply(error, sigma)), signal);
  } else {
    clean = subtract(multiply(sample, signal), multiply(prediction, sigma));
    error = add(multiply(sample, sigma), multiply(prediction, signal));
  }
  if (eta === 0 || !noise) return addNoise(clean, error, next);
  const variance = multiply(
    multiply(asTensor(eta), eta),
    multiply(divide(complement(next), complement(now)), complement(divide(now, next))),
  );
  // Never below 0, where rounding would leave it at eta = 1.
  const direction = sqrt(maximum(subtract(complement(next), variance), 0));
  return add(add(multiply(clean, sqrt(next)), multiply(error, direction)), multiply(noise, sqrt(variance)));
}
