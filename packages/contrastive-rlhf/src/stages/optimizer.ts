import { AdamW, type AdamWOptions, linearSchedule, type Parameter } from "@trefoil/core";

/** The optimiser's settings of a stage. */
export interface OptimizerSettings {
  /** Peak; falls linearly to 0. */
  learningRate: number;
  warmupSteps: number;
  weightDecay: number;
  clipNorm: number;
}

/** AdamW as RLHF papers set it: β₂ 0.999 and ε 1e-5 (arXiv 2403.17031, detail 20), linear decay. */
export function makeOptimizer(parameters: readonly Parameter[], settings: OptimizerSettings, updates: number): AdamW {
  const { learningRate: peak, warmupSteps, weightDecay, clipNorm } = settings;
  const schedule = linearSchedule({ peak, warmupSteps: Math.min(warmupSteps, updates), totalSteps: updates + 1 });
  const options: AdamWOptions = {
    learningRate: schedule,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-5,
    weightDecay,
    clipNorm,
  };
  return new AdamW(parameters, options);
}
