import { requireTrace } from "../graph/trace.js";
import { requireOptions } from "../ops/check-arguments.js";
import { add, equal, multiply } from "../ops/elementwise.js";
import { concat, reshape } from "../ops/movement.js";
import { adamW } from "../ops/optimizer.js";
import { InvalidUseError } from "../tensor/errors.js";
import { Parameter, type Tensor } from "../tensor/tensor.js";
import { requireGradientsOf } from "./check-gradients.js";
import { clipScale } from "./clip.js";
import { constantSchedule, type Schedule } from "./schedule.js";

export interface AdamWOptions {
  /** A rate, or a schedule over the step. */
  learningRate: number | Schedule;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.95, the usual value for language models (PyTorch: 0.999). */
  beta2?: number;
  /** Default 1e-8. */
  epsilon?: number;
  /** Decay of parameters with two dimensions or more; norms and biases are not decayed. Default 0.1. */
  weightDecay?: number;
  /** Decay every parameter, as PyTorch does with one parameter group. Default false. */
  decayAll?: boolean;
  /** Gradients longer than this (global L2 norm) are scaled down to it. Default 1; `Infinity`: never. */
  clipNorm?: number;
  /** Parameters with other settings; the norm that is clipped stays that of all. */
  groups?: readonly AdamWGroup[];
}

/** Some of an optimiser's parameters: a head that learns faster than its backbone, layers that do not decay. */
export interface AdamWGroup {
  parameters: readonly Parameter[];
  /** Multiplies the learning rate of every step. Default 1. */
  learningRateScale?: number;
  /** In place of the optimiser's, whatever the dimensions. */
  weightDecay?: number;
}

const optionNames = ["learningRate", "beta1", "beta2", "epsilon", "weightDecay", "decayAll", "clipNorm", "groups"];

/** What `apply` reports, as tensors of the step. */
export interface OptimizerReport {
  /** Global L2 norm of the gradients, before clipping. */
  gradientNorm: Tensor;
  learningRate: Tensor;
}

/**
 * AdamW (Decoupled Weight Decay Regularization, arXiv 1711.05101) with clipping by the global norm, as one fused kernel. A step whose
 * gradient norm is not finite changes nothing: not parameters, not moments, and it does not count, neither for the bias correction (as
 * under PyTorch's GradScaler) nor for the schedule.
 */
export class AdamW {
  readonly parameters: readonly Parameter[];
  /** Updates made, a scalar; part of the state. */
  readonly step: Parameter;
  readonly firstMoments: readonly Parameter[];
  readonly secondMoments: readonly Parameter[];
  readonly #options: Required<Omit<AdamWOptions, "learningRate" | "groups">>;
  readonly #groups = new Map<Parameter, AdamWGroup>();
  readonly #schedule: Schedule;

  /** @throws InvalidUseError for options out of range */
  constructor(parameters: readonly Parameter[], options: AdamWOptions) {
    if (new Set(parameters).size < parameters.length)
      throw new InvalidUseError("AdamW: a parameter is listed twice, as when modules share it; list each once");
    requireOptions("AdamW", options, optionNames, "{ learningRate: 1e-3, beta2: 0.999 }");
    if (parameters.length === 0) throw new InvalidUseError("AdamW: there are no parameters; are all of them frozen?");
    this.parameters = parameters;
    const zerosLike = ({ shape }: Parameter) => new Parameter(shape, { trainable: false });
    this.step = new Parameter([], { trainable: false });
    this.firstMoments = parameters.map(zerosLike);
    this.secondMoments = parameters.map(zerosLike);
    const { learningRate, beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8, weightDecay = 0.1 } = options;
    const { decayAll = false, clipNorm = 1 } = options;
    const inRange = (name: string, value: number, holds: boolean, range: string) => {
      if (!holds) throw new InvalidUseError(`AdamW: ${name} is ${value}; it must be ${range}`);
    };
    for (const [name, beta] of Object.entries({ beta1, beta2 }))
      inRange(name, beta, beta >= 0 && beta < 1, "from 0 to below 1");
    for (const [name, value] of Object.entries({ epsilon, weightDecay }))
      inRange(name, value, value >= 0 && value < Infinity, "a number from 0");
    inRange("clipNorm", clipNorm, clipNorm > 0, "above 0, or Infinity");
    if (typeof learningRate !== "function")
      inRange(
        "learningRate",
        learningRate,
        learningRate >= 0 && learningRate < Infinity,
        "a number from 0, or a schedule",
      );
    for (const group of options.groups ?? []) {
      const { learningRateScale = 1, weightDecay: decay = 0 } = group;
      for (const [name, value] of Object.entries({ learningRateScale, weightDecay: decay }))
        inRange(`${name} of a group`, value, value >= 0 && value < Infinity, "a number from 0");
      for (const parameter of group.parameters) {
        if (!parameters.includes(parameter) || this.#groups.has(parameter))
          throw new InvalidUseError(
            "AdamW: each parameter of a group must be one of the optimiser's, and in no other group",
          );
        this.#groups.set(parameter, group);
      }
    }
    this.#schedule = typeof learningRate === "function" ? learningRate : constantSchedule(learningRate);
    this.#options = { beta1, beta2, epsilon, weightDecay, decayAll, clipNorm };
  }

  /** Records one update. Use inside `compile`; `gradients` in the order of `parameters`. */
  apply(gradients: readonly Tensor[]): OptimizerReport {
    requireTrace("AdamW.apply");
    requireGradientsOf("AdamW.apply", this.parameters, gradients);
    const { weightDecay, decayAll, clipNorm } = this.#options;
    const step = add(this.step, 1);
    const learningRate = this.#schedule(step);
    // A norm that is not finite makes the scale so, and stops the update.
    const { norm: gradientNorm, scale } = clipScale(gradients, clipNorm);
    this.step.assign(add(this.step, equal(gradientNorm.sub(gradientNorm), 0)));
    // One kernel for all parameters of a rate.
    const rateScales = this.parameters.map((parameter) => this.#groups.get(parameter)?.learningRateScale ?? 1);
    for (const rateScale of new Set(rateScales)) {
      const indices = [...rateScales.keys()].filter((i) => rateScales[i] === rateScale);
      const hyper = concat([multiply(learningRate, rateScale), scale, step].map((value) => reshape(value, [1])));
      const slots = indices.map((i) => {
        const parameter = this.parameters[i]!;
        return {
          parameter,
          gradient: gradients[i]!,
          firstMoment: this.firstMoments[i]!,
          secondMoment: this.secondMoments[i]!,
          weightDecay: this.#groups.get(parameter)?.weightDecay ?? (decayAll || parameter.rank >= 2 ? weightDecay : 0),
        };
      });
      adamW(hyper, slots, this.#options).forEach((updated, at) => {
        const i = indices[at]!;
        this.parameters[i]!.assign(updated.parameter);
        this.firstMoments[i]!.assign(updated.firstMoment);
        this.secondMoments[i]!.assign(updated.secondMoment);
      });
    }
    return { gradientNorm, learningRate };
  }

  /** Everything a checkpoint needs besides the parameters, by name: `step`, `m.0`, `v.0`, … */
  namedState(): Map<string, Parameter> {
    return new Map([
      ["step", this.step],
      ...this.firstMoments.map((moment, i) => [`m.${i}`, moment] as const),
      ...this.secondMoments.map((moment, i) => [`v.${i}`, moment] as const),
    ]);
  }
}
