import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  AdamW,
  type AdamWOptions,
  type JsonValue,
  linearSchedule,
  loadLatestCheckpoint,
  type Module,
  openMetricsFile,
  openRunDirectory,
  type Parameter,
  Permutation,
  type Progress,
  RUN_LAYOUT,
  type StepScalars,
  type StoredTensor,
  saveCheckpoint,
  type Tensor,
  trainLoop,
} from "@trefoil/core";
import { RlhfError } from "../errors.js";

/** What a stage is given by the command line, or by a program that uses it as a library. */
export interface StageContext {
  progress?: Progress;
  /** Aborted: finish the step, save a checkpoint, return. */
  signal?: AbortSignal;
}

/** Where a training stage writes. */
export interface StageOutput {
  /** Folder of the result, as Hugging Face lays it out. */
  output: string;
  /** Run directory: configuration, metrics, checkpoints. */
  run: string;
  /** Go on from the newest checkpoint of the run directory, if there is one. */
  resume?: boolean;
  overwrite?: boolean;
}

/** Before anything is trained. @throws RlhfError `RLHF_OPTIONS` when the output is there and may not be replaced */
export function requireFreeOutput({ output, overwrite = false }: Pick<StageOutput, "output" | "overwrite">): void {
  if (overwrite || !existsSync(output)) return;
  throw new RlhfError("RLHF_OPTIONS", `${output} exists already: name another output, or allow overwriting`);
}

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

export interface RunOptions extends StageContext {
  run: string;
  resume?: boolean;
  title: string;
  /** Saved as `config.yaml`, and compared when the run is resumed. */
  config: object;
  steps: number;
  /** Everything on the device that a resumed run needs, by name. */
  parameters: ReadonlyMap<string, Parameter>;
  /** Everything else that a resumed run needs. */
  state?: { save(): JsonValue; restore(saved: JsonValue): void };
  step: (index: number) => Promise<StepScalars>;
  evaluateEvery?: number;
  evaluate?: () => Promise<Readonly<Record<string, number>>>;
  checkpointEvery: number;
  keepCheckpoints: number;
}

/** What a checkpoint holds beside the tensors. */
interface SavedRun {
  tokens: number;
  config: string;
  state: JsonValue;
}

/** A training run with metrics and checkpoints: killed at any instant and resumed it ends with the same weights. Returns whether it ended. */
export async function runSteps(options: RunOptions): Promise<boolean> {
  const { run, title, steps, step, parameters, state, progress, signal, evaluate, evaluateEvery } = options;
  const resume = options.resume === true && existsSync(join(run, RUN_LAYOUT.config));
  const config = createHash("sha256").update(JSON.stringify(options.config)).digest("hex");
  await using directory = await openRunDirectory({ name: title, directory: run, resume, config: options.config });
  const found = resume ? await loadLatestCheckpoint(directory.path) : undefined;
  for (const warning of found?.warnings ?? []) progress?.warn(warning);
  let resumeFrom: { step: number; tokens: number } | undefined;
  if (found) {
    const { checkpoint } = found;
    const saved = checkpoint.state as unknown as SavedRun;
    if (saved.config !== config) {
      throw new RlhfError(
        "RLHF_RESUME",
        `${run} was started with other settings, data or models: resume with the same ones, or start a new run directory`,
      );
    }
    restoreParameters(parameters, checkpoint.tensors, checkpoint.path);
    state?.restore(saved.state);
    resumeFrom = { step: checkpoint.step, tokens: saved.tokens };
  }
  // A run killed before its first checkpoint starts again.
  const metrics = await openMetricsFile(directory.metrics, resume ? { resumeStep: resumeFrom?.step ?? 0 } : {});
  try {
    const { status } = await trainLoop({
      steps,
      resumeFrom,
      title,
      metrics: [metrics],
      step: async (index) => await step(index),
      checkpointEvery: options.checkpointEvery,
      checkpoint: async ({ step: at, tokens }) => {
        const saved: SavedRun = { tokens, config, state: state?.save() ?? null };
        const content = { tensors: await snapshot(parameters), state: saved as unknown as JsonValue };
        await saveCheckpoint(directory.path, at, content, { keepLast: options.keepCheckpoints });
      },
      ...(evaluate && { evaluate, evaluateEvery }),
      ...(progress && { progress }),
      ...(signal && { signal }),
    });
    return status === "completed";
  } finally {
    await metrics.close();
  }
}

async function snapshot(parameters: ReadonlyMap<string, Parameter>): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, parameter] of parameters) {
    const dtype = ({ f32: "F32", i32: "I32", bf16: "BF16" } as const)[parameter.dtype];
    tensors[name] = { dtype, shape: parameter.shape, data: await parameter.data() };
  }
  return tensors;
}

/** @throws RlhfError `RLHF_RESUME` when a tensor is missing or has another size */
export function restoreParameters(
  parameters: ReadonlyMap<string, Parameter>,
  tensors: Readonly<Record<string, StoredTensor>>,
  path: string,
): void {
  for (const [name, parameter] of parameters) {
    const stored = tensors[name];
    if (stored?.data.byteLength !== parameter.bytes) {
      throw new RlhfError(
        "RLHF_RESUME",
        `${path} holds ${stored ? "another size of" : "no"} "${name}": resume with the settings the run was started with`,
      );
    }
    parameter.set(stored.data as Float32Array | Int32Array | Uint16Array);
  }
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

/** The options that are set: absent and undefined are not the same to strict optional properties. */
export function defined<T extends object>(options: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as {
    [K in keyof T]?: Exclude<T[K], undefined>;
  };
}
