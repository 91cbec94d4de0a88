import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { type JsonValue, loadLatestCheckpoint, saveCheckpoint } from "../io/index.js";
import type { Parameter, Tensor } from "../tensor/tensor.js";
import { ResumeError } from "./errors.js";
import { type LoopState, type TrainLoopOptions, trainLoop } from "./loop.js";
import { openMetricsFile } from "./metrics.js";
import { restoreParameters, storedTensors } from "./parameter-state.js";
import { configDifference, openRunDirectory } from "./run-directory.js";
import { RUN_LAYOUT } from "./run-layout.js";
import type { StageContext, StageOutput } from "./stage.js";

/** What a training run computes, and what it needs to go on after a stop. */
export interface StepsPlan<Batch = undefined>
  extends Pick<
    TrainLoopOptions<Batch>,
    "diagnose" | "evaluate" | "evaluateEvery" | "mustBeFinite" | "overlap" | "prepare" | "shown" | "step"
  > {
  title: string;
  /** Saved as `config.yaml`, and compared when the run is resumed: settings and what tells data and models apart. */
  config: object;
  /** Folders it starts from: saved beside, but not compared, for all weights are in checkpoints. */
  from?: Readonly<Record<string, string>> | undefined;
  settings: { steps: number; checkpointEvery: number; keepCheckpoints: number };
  /** Everything on the device that a resumed run needs, by name: weights, moments, counters, random state. */
  parameters: ReadonlyMap<string, Parameter>;
  /** Everything else that a resumed run needs. */
  state?: { save(): JsonValue; restore(saved: JsonValue): void };
}

/** What a checkpoint holds beside the tensors. */
interface SavedRun {
  tokens: number;
  /** Hash of the configuration. */
  config: string;
  state: JsonValue;
}

/**
 * A training run with metrics and checkpoints: killed at any instant and resumed it ends with the same weights.
 * @returns whether it ended; false when the signal stopped it
 * @throws ResumeError when the run directory was started with other settings, data or models
 */
export async function runSteps<Batch = undefined>(
  stage: StageContext & Pick<StageOutput, "run" | "resume">,
  plan: StepsPlan<Batch>,
): Promise<boolean> {
  const { run, progress, signal } = stage;
  const { title, config, from, settings, parameters, state } = plan;
  const resume = stage.resume === true && existsSync(join(run, RUN_LAYOUT.config));
  const hash = createHash("sha256").update(JSON.stringify(config)).digest("hex");
  const content = { ...config, ...from };
  let resumeFrom: LoopState | undefined;
  const accept = async (path: string): Promise<void> => {
    const found = await loadLatestCheckpoint(path);
    if (!found) return;
    const { checkpoint, warnings } = found;
    for (const warning of warnings) progress?.warn(warning);
    const saved = checkpoint.state as unknown as SavedRun;
    if (saved.config !== hash) {
      const difference = await configDifference(path, content);
      throw new ResumeError(
        `${run} was started with other settings, data or models${difference ? ` (${difference})` : ""}: resume with the same ones, or start a new run directory`,
      );
    }
    restoreParameters(parameters, checkpoint.tensors, checkpoint.path);
    state?.restore(saved.state);
    resumeFrom = { step: checkpoint.step, tokens: saved.tokens };
  };
  await using directory = await openRunDirectory({ name: title, directory: run, resume, config: content, accept });
  // A run killed before its first checkpoint starts again.
  const metrics = await openMetricsFile(directory.metrics, { resumeStep: resumeFrom?.step });
  try {
    const { status } = await trainLoop({
      ...plan,
      steps: settings.steps,
      resumeFrom,
      metrics: [metrics],
      checkpointEvery: settings.checkpointEvery,
      checkpoint: async ({ step: at, tokens }) => {
        const saved: SavedRun = { tokens, config: hash, state: state?.save() ?? null };
        const content = { tensors: await storedTensors(parameters), state: saved as unknown as JsonValue };
        await saveCheckpoint(directory.path, at, content, { keepLast: settings.keepCheckpoints });
      },
      ...(progress && { progress }),
      ...(signal && { signal }),
    });
    return status === "completed";
  } finally {
    await metrics.close();
  }
}

/** The scalars of a step on the host. */
export async function scalarsOf<K extends string>(values: Record<K, Tensor>): Promise<Record<K, number>> {
  const entries = Object.entries<Tensor>(values).map(async ([name, value]) => [name, await value.item()] as const);
  return Object.fromEntries(await Promise.all(entries)) as Record<K, number>;
}
