import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  AdamW,
  type CausalLM,
  compile,
  cosineSchedule,
  gumbelTemperature,
  type LossOptions,
  loadLatestCheckpoint,
  NonFiniteError,
  openMetricsFile,
  openRunDirectory,
  type Parameter,
  type Progress,
  RandomGenerator,
  RUN_LAYOUT,
  readMetricsFile,
  type StoredTensor,
  saveCheckpoint,
  type Tensor,
  TokenMixture,
  tensor,
  trainLoop,
  valueAndGrad,
} from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { StageError } from "./errors.js";

/** How a model is trained; the same for every stage. */
export interface TrainSettings {
  /** Optimiser updates. */
  steps: number;
  /** Rows of a batch. */
  batch: number;
  /** Tokens of a row. */
  sequence: number;
  /** Peak learning rate; falls along a cosine to a tenth of it. */
  learningRate: number;
  warmupSteps: number;
  weightDecay: number;
  clipNorm: number;
  /** Of the order of the data. */
  seed: number;
  checkpointEvery: number;
  keepCheckpoints: number;
}

/** What a stage is given by the command line, or by a program that uses it as a library. */
export interface StageContext {
  progress?: Progress;
  /** Aborted: finish the step, save a checkpoint, return. */
  signal?: AbortSignal;
}

/** A domain's share of the rows. */
export interface WeightedDomain {
  domain: DomainTokens;
  weight: number;
}

export interface TrainOptions extends StageContext {
  model: CausalLM;
  /** Which parameters are trained. Default: all. */
  parameters?: readonly Parameter[];
  data: readonly WeightedDomain[];
  settings: TrainSettings;
  /** Balancing loss and z-loss of the routers. */
  routers?: Pick<LossOptions, "balance" | "zLoss"> & {
    /** Of Sample Top-1: τ = max(floor, exp(-rate step)). Default: the paper's 1e-4 and 0.5. */
    temperature?: { rate: number; floor: number };
  };
  /** Run directory: metrics and checkpoints. */
  run: string;
  /** Go on from the newest checkpoint in `run`. */
  resume?: boolean;
  /** Saved as `config.yaml`. */
  config: object;
  title: string;
}

/** One point of a loss curve: the language-modelling loss in nats per token. */
export interface LossPoint {
  step: number;
  loss: number;
}

export interface TrainResult {
  /** False when the signal stopped it. */
  completed: boolean;
  steps: number;
  tokens: number;
}

/**
 * Trains a model to the end of its settings, or until the signal: one compiled program per step, metrics, checkpoints.
 * Killed at any instant and resumed it ends with the same weights, bit for bit.
 * @throws NonFiniteLossError naming the step and the first op that was not finite
 */
export async function train(options: TrainOptions): Promise<TrainResult> {
  const { model, settings, run, progress, signal, title } = options;
  const parameters = options.parameters ?? model.parameters();
  const { steps, batch, sequence, learningRate: peak, warmupSteps, weightDecay, clipNorm, seed } = settings;
  const schedule = cosineSchedule({
    peak,
    warmupSteps: Math.min(warmupSteps, steps),
    totalSteps: steps,
    floor: peak / 10,
  });
  const optimizer = new AdamW(parameters, { learningRate: schedule, weightDecay, clipNorm });
  const domains = options.data.map(({ domain, weight }) => ({ name: domain.name, file: domain.train, weight }));
  const mixture = new TokenMixture({ domains, batch, sequence, seed });
  const random = new RandomGenerator(seed);
  const state = stateOf(model, optimizer, random);

  const resume = options.resume === true && existsSync(join(run, RUN_LAYOUT.config));
  await using directory = await openRunDirectory({ name: title, directory: run, resume, config: options.config });
  const found = resume ? await loadLatestCheckpoint(directory.path) : undefined;
  for (const warning of found?.warnings ?? []) progress?.warn(warning);
  const resumeFrom = found && restore(found.checkpoint, state, mixture);
  const metrics = await openMetricsFile(directory.metrics, found ? { resumeStep: found.checkpoint.step } : {});

  const { balance: balancing, zLoss: zCoefficient, temperature: annealing } = options.routers ?? {};
  const step = compile((tokens: Tensor, targets: Tensor, temperature: Tensor) => {
    const loss: LossOptions = {
      router: { random, temperature },
      ...(balancing && { balance: balancing }),
      ...(zCoefficient && { zLoss: zCoefficient }),
    };
    const { value, grads } = valueAndGrad(() => model.loss(tokens, targets, loss), parameters);
    const { gradientNorm, learningRate } = optimizer.apply(grads);
    const { crossEntropy, balance, zLoss } = value;
    return {
      loss: value.loss,
      gradNorm: gradientNorm,
      learningRate,
      ...((balance || zLoss) && { crossEntropy }),
      ...(balance && { balance }),
      ...(zLoss && { zLoss }),
    };
  });
  type Batch = readonly [Tensor, Tensor, Tensor];
  // With a step in flight while another is read, the two latest batches may be the one to diagnose.
  const batches = new Map<number, Batch>();

  try {
    const { status, state: done } = await trainLoop<Batch>({
      steps,
      resumeFrom,
      title,
      ...(progress && { progress }),
      ...(signal && { signal }),
      metrics: [metrics],
      overlap: true,
      prepare: (index) => {
        const { tokens, targets } = mixture.next();
        const shape = [batch, sequence];
        const temperature = tensor(Float32Array.of(gumbelTemperature(index, annealing)), { shape: [] });
        return [tensor(tokens, { shape }), tensor(targets, { shape }), temperature];
      },
      step: async (index, inputs) => {
        batches.set(index, inputs);
        batches.delete(index - 2);
        return { ...(await scalarsOf(await step(...inputs))), tokens: batch * sequence };
      },
      diagnose: async (index) => {
        const batch = batches.get(index);
        const failure = batch && (await step.diagnose(...batch).then(undefined, (error: unknown) => error));
        return failure instanceof NonFiniteError ? failure.op : undefined;
      },
      checkpointEvery: settings.checkpointEvery,
      checkpoint: async ({ step: at, tokens }) => {
        const content = { tensors: await snapshot(state), state: { tokens, data: mixture.state() } };
        await saveCheckpoint(directory.path, at, content, { keepLast: settings.keepCheckpoints });
      },
    });
    return { completed: status === "completed", steps: done.step, tokens: done.tokens };
  } finally {
    await metrics.close();
    for (const parameter of [...optimizer.namedState().values(), random.state]) parameter.dispose();
  }
}

async function scalarsOf(values: Record<string, Tensor>): Promise<{ loss: number } & Record<string, number>> {
  const entries = await Promise.all(
    Object.entries(values).map(async ([name, value]) => [name, await value.item()] as const),
  );
  return Object.fromEntries(entries) as { loss: number } & Record<string, number>;
}

/** Everything a resumed run needs from the device, by name. */
function stateOf(model: CausalLM, optimizer: AdamW, random: RandomGenerator): Map<string, Parameter> {
  return new Map([
    ...[...model.namedParameters()].map(([name, parameter]) => [`model.${name}`, parameter] as const),
    ...[...optimizer.namedState()].map(([name, parameter]) => [`optimizer.${name}`, parameter] as const),
    ["random", random.state],
  ]);
}

async function snapshot(state: ReadonlyMap<string, Parameter>): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, parameter] of state) {
    const dtype = ({ f32: "F32", i32: "I32", bf16: "BF16" } as const)[parameter.dtype];
    tensors[name] = { dtype, shape: parameter.shape, data: await parameter.data() };
  }
  return tensors;
}

function restore(
  {
    step,
    path,
    tensors,
    state: saved,
  }: { step: number; path: string; tensors: Record<string, StoredTensor>; state: unknown },
  state: ReadonlyMap<string, Parameter>,
  mixture: TokenMixture,
): { step: number; tokens: number } {
  for (const [name, parameter] of state) {
    const stored = tensors[name];
    if (stored?.data.byteLength !== parameter.bytes) {
      throw new StageError(
        "BTX_RESUME",
        `${path} holds ${stored ? "another size of" : "no"} "${name}": resume with the settings the run was started with`,
      );
    }
    parameter.set(stored.data as Float32Array | Int32Array | Uint16Array);
  }
  const { tokens, data } = saved as { tokens: number; data: unknown };
  mixture.restore(data);
  return { step, tokens };
}

/** The training losses written in a run directory. */
export async function lossCurve(run: string): Promise<LossPoint[]> {
  const records = await readMetricsFile(join(run, RUN_LAYOUT.metrics));
  return records.flatMap(({ step, kind, values }) =>
    kind === "train" ? [{ step, loss: values.crossEntropy ?? values.loss! }] : [],
  );
}
