import { AdamW, type AdamWOptions, cosineSchedule, type Parameter } from "@trefoil/core";

/** What every training stage sets. */
export interface TrainingSettings {
  /** Optimiser updates. */
  steps: number;
  /** Images, captions or pairs of a batch. */
  batch: number;
  /** Peak; falls along half a cosine to a tenth. */
  learningRate: number;
  warmupSteps: number;
  weightDecay: number;
  clipNorm: number;
  /** Initial weights, order of the data, random numbers. */
  seed: number;
  checkpointEvery: number;
  keepCheckpoints: number;
}

/** AdamW with warm-up and cosine decay, over `settings.steps` updates. */
export function makeOptimizer(
  parameters: readonly Parameter[],
  settings: Pick<TrainingSettings, "steps" | "learningRate" | "warmupSteps" | "weightDecay" | "clipNorm">,
  overrides: Pick<AdamWOptions, "beta1" | "beta2" | "epsilon"> = {},
): AdamW {
  const { learningRate: peak, warmupSteps, weightDecay, clipNorm, steps } = settings;
  const schedule = cosineSchedule({
    peak,
    warmupSteps: Math.min(warmupSteps, steps),
    totalSteps: steps + 1,
    floor: peak / 10,
  });
  return new AdamW(parameters, { learningRate: schedule, weightDecay, clipNorm, ...overrides });
}
