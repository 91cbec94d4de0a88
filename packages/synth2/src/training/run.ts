import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  type JsonValue,
  loadLatestCheckpoint,
  openMetricsFile,
  openRunDirectory,
  type Parameter,
  type Progress,
  RUN_LAYOUT,
  type StepScalars,
  type StoredTensor,
  saveCheckpoint,
  trainLoop,
} from "@trefoil/core";
import { SynthError } from "../errors.js";

/** What a stage is given by the command line, or by a program that uses it as a library. */
export interface StageContext {
  progress?: Progress;
  /** Aborted: finish the step, save a checkpoint, return. */
  signal?: AbortSignal;
}

/** Where a training stage writes. */
export interface StageOutput {
  /** Folder of the result. */
  output: string;
  /** Run directory: configuration, metrics, checkpoints. */
  run: string;
  /** Go on from the newest checkpoint of the run directory, if there is one. */
  resume?: boolean;
  overwrite?: boolean;
}

/** Before anything is trained. @throws SynthError `SYNTH_OPTIONS` when the output is there and may not be replaced */
export function requireFreeOutput({ output, overwrite = false }: Pick<StageOutput, "output" | "overwrite">): void {
  if (overwrite || !existsSync(output)) return;
  throw new SynthError("SYNTH_OPTIONS", `${output} exists already: name another output, or allow overwriting`);
}

export interface RunOptions extends StageContext {
  run: string;
  resume?: boolean;
  title: string;
  /** Saved as `config.yaml`, and compared when the run is resumed: settings and what tells data and models apart. */
  config: object;
  steps: number;
  /** Everything on the device that a resumed run needs, by name: weights, moments, counters, random state. */
  parameters: ReadonlyMap<string, Parameter>;
  /** Everything else that a resumed run needs. */
  state?: { save(): JsonValue; restore(saved: JsonValue): void };
  step: (index: number) => Promise<StepScalars>;
  /** Scalars that must be finite; `loss` and `gradNorm` unless named. */
  mustBeFinite?: readonly string[];
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

/**
 * A training run with metrics and checkpoints: killed at any instant and resumed it ends with the same weights.
 * @returns whether it ended; false when the signal stopped it
 * @throws SynthError `SYNTH_RESUME` when the run directory was started with other settings, data or models
 */
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
      throw new SynthError(
        "SYNTH_RESUME",
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
        const content = { tensors: await storedTensors(parameters), state: saved as unknown as JsonValue };
        await saveCheckpoint(directory.path, at, content, { keepLast: options.keepCheckpoints });
      },
      ...(options.mustBeFinite && { mustBeFinite: options.mustBeFinite }),
      ...(evaluate && { evaluate, evaluateEvery }),
      ...(progress && { progress }),
      ...(signal && { signal }),
    });
    return status === "completed";
  } finally {
    await metrics.close();
  }
}

/** Copies of the parameters, as files hold them. */
export async function storedTensors(parameters: ReadonlyMap<string, Parameter>): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, parameter] of parameters) {
    const dtype = ({ f32: "F32", i32: "I32", bf16: "BF16" } as const)[parameter.dtype];
    tensors[name] = { dtype, shape: parameter.shape, data: await parameter.data() };
  }
  return tensors;
}

/** @throws SynthError `SYNTH_RESUME` when a tensor is missing or has another size */
function restoreParameters(
  parameters: ReadonlyMap<string, Parameter>,
  tensors: Readonly<Record<string, StoredTensor>>,
  path: string,
): void {
  for (const [name, parameter] of parameters) {
    const stored = tensors[name];
    if (stored?.data.byteLength !== parameter.bytes) {
      throw new SynthError(
        "SYNTH_RESUME",
        `${path} holds ${stored ? "another size of" : "no"} "${name}": resume with the settings the run was started with`,
      );
    }
    parameter.set(stored.data as Float32Array | Int32Array | Uint16Array);
  }
}
