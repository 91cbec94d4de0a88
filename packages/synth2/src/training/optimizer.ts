import {
  AdamW,
  type AdamWOptions,
  cosineSchedule,
  type Module,
  type Parameter,
  Permutation,
  type Tensor,
} from "@trefoil/core";

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

/** Parameters of several parts under one prefix each. */
export function namedState(parts: Readonly<Record<string, Module | AdamW>>): Map<string, Parameter> {
  return new Map(
    Object.entries(parts).flatMap(([prefix, part]) => {
      const named = part instanceof AdamW ? part.namedState() : part.namedParameters();
      return [...named].map(([name, parameter]) => [`${prefix}.${name}`, parameter] as const);
    }),
  );
}

/** Rows of update `step`: a new order every epoch, computed from the step alone. */
export function rowsOfStep(size: number, batch: number, step: number, seed: number): number[] {
  return Array.from({ length: batch }, (_, i) => {
    const position = step * batch + i;
    return new Permutation(size, seed, Math.floor(position / size)).at(position % size);
  });
}

/** The scalars of a step on the host. */
export async function scalarsOf<K extends string>(values: Record<K, Tensor>): Promise<Record<K, number>> {
  const entries = Object.entries<Tensor>(values).map(async ([name, value]) => [name, await value.item()] as const);
  return Object.fromEntries(await Promise.all(entries)) as Record<K, number>;
}
