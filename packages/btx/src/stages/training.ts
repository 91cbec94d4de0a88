import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import {
  AdamW,
  type BatchPart,
  batchParts,
  type CausalLM,
  compile,
  cosineSchedule,
  type DocumentLayout,
  type DomainUsage,
  type Dtype,
  GradientAccumulator,
  gumbelTemperature,
  type JsonValue,
  type LossOptions,
  NonFiniteError,
  namedState,
  type Parameter,
  RandomGenerator,
  RUN_LAYOUT,
  readMetricsFile,
  runSteps,
  type StageContext,
  type StepScalars,
  type Tensor,
  type TokenBatch,
  TokenMixture,
  tensor,
  valueAndGrad,
  writeFileAtomic,
  zeros,
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
  /** A batch is computed in so many parts, whose gradients are summed: less memory, the same update. Default 1. */
  accumulate?: number;
  /** How documents come to rows. Default `joined`. */
  documents?: DocumentLayout;
  /** Keep the inputs of decoder blocks alone for the backward pass and compute the rest again. Default false. */
  recompute?: boolean;
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
  /** Saved as `config.yaml`, and compared when the run is resumed. */
  config: object;
  /** Folders that it starts from: saved beside, but not compared, for all weights are in checkpoints. */
  from?: Readonly<Record<string, string>>;
  title: string;
}

/** One point of a loss curve: the language-modelling loss in nats per token. */
export interface LossPoint {
  step: number;
  loss: number;
}

/** A part of a batch on its way to the device; [rows, sequence] where nothing else is said. */
interface PartTensors {
  tokens: Tensor;
  targets: Tensor;
  /** Of sampling routers, a scalar. */
  temperature: Tensor;
  segments?: Tensor;
  positions?: Tensor;
  /** What each target counts; absent: all the same. */
  weights?: Tensor;
  /** 0 where nothing stands, which balances no router; absent: all count. */
  counted?: Tensor;
}

interface PreparedBatch {
  parts: PartTensors[];
  /** Positions that are trained on. */
  trained: number;
}

/**
 * Trains a model to the end of its settings, or until the signal: one compiled program per step, metrics, checkpoints.
 * Killed at any instant and resumed it ends with the same weights, bit for bit.
 * @returns whether it ended; false when the signal stopped it
 * @throws NonFiniteLossError naming the step and the first op that was not finite
 */
export async function train(options: TrainOptions): Promise<boolean> {
  const { model, settings, run, title } = options;
  const parameters = options.parameters ?? model.parameters();
  const { steps, sequence, learningRate: peak, warmupSteps, weightDecay, clipNorm, seed } = settings;
  const { accumulate = 1, documents = "joined", recompute = false } = settings;
  if (settings.batch % accumulate !== 0) {
    const message = `a batch of ${settings.batch} rows cannot be computed in ${accumulate} equal parts: choose a divisor`;
    throw new StageError("BTX_OPTIONS", message);
  }
  const schedule = cosineSchedule({
    peak,
    warmupSteps: Math.min(warmupSteps, steps),
    totalSteps: steps,
    floor: peak / 10,
  });
  const optimizer = new AdamW(parameters, { learningRate: schedule, weightDecay, clipNorm });
  const domains = options.data.map(({ domain: { name, train: file, trainMask: mask }, weight }) => {
    return { name, file, mask, weight };
  });
  const mixture = new TokenMixture({ domains, batch: settings.batch / accumulate, sequence, seed, documents });
  const random = new RandomGenerator(seed);
  // Everything a resumed run needs from the device, by name.
  const state = new Map([...namedState({ model, optimizer }), ["random", random.state] as const]);

  using accumulator = new GradientAccumulator(parameters);
  const turns = batchParts(accumulate);
  const { balance: balancing, zLoss: zCoefficient, temperature: annealing } = options.routers ?? {};
  const compute = compile((part: BatchPart, { tokens, targets, temperature, ...context }: PartTensors) => {
    // Weights count targets of the whole batch; the losses of the routers are means over its parts.
    const loss: LossOptions = {
      ...context,
      recompute,
      router: { random, temperature },
      ...(balancing && { balance: { ...balancing, coefficient: balancing.coefficient / accumulate } }),
      ...(zCoefficient && { zLoss: zCoefficient / accumulate }),
    };
    const { value, grads } = valueAndGrad(() => model.loss(tokens, targets, loss), parameters);
    const sums = accumulator.add(grads, part);
    const update = sums && optimizer.apply(sums);
    const { crossEntropy, balance, zLoss } = value;
    return {
      loss: value.loss,
      ...(update && { gradNorm: update.gradientNorm, learningRate: update.learningRate }),
      ...((balance || zLoss) && { crossEntropy }),
      ...(balance && { balance: balance.mul(1 / accumulate) }),
      ...(zLoss && { zLoss: zLoss.mul(1 / accumulate) }),
    };
  });
  const holes = documents !== "joined" || domains.some(({ mask }) => mask !== undefined);
  // With a step in flight while another is read, the two latest batches may be the one to diagnose.
  const batches = new Map<number, PreparedBatch>();

  try {
    // Its shapes say what a step takes: too much is refused before a batch is filled.
    const rows = settings.batch / accumulate;
    compute.memory(
      turns[0]!,
      emptyPart(rows, sequence, {
        segments: documents !== "joined",
        weights: holes || accumulate > 1,
        counted: documents === "packed",
      }),
    );
    const data = options.data.map(({ domain: { name, train: file }, weight }) => {
      return [name, { weight, text: file.header.fingerprint }] as const;
    });
    const completed = await runSteps<PreparedBatch>(options, {
      title,
      config: { ...options.config, data: Object.fromEntries(data) },
      from: options.from,
      settings,
      parameters: state,
      state: { save: () => mixture.state() as JsonValue, restore: (saved) => mixture.restore(saved) },
      overlap: true,
      prepare: (index) =>
        partsOf(
          turns.map(() => mixture.next()),
          { holes, temperature: gumbelTemperature(index, annealing) },
        ),
      step: async (index, batch) => {
        batches.set(index, batch);
        batches.delete(index - 2);
        // All parts are enqueued before any is awaited.
        const results = batch.parts.map((part, i) => compute(turns[i]!, part));
        return { ...(await sumOf(results)), tokens: batch.trained };
      },
      diagnose: async (index) => {
        for (const [i, part] of batches.get(index)?.parts.entries() ?? []) {
          const failure = await compute.diagnose(turns[i]!, part).then(undefined, (error: unknown) => error);
          if (failure instanceof NonFiniteError) return failure.op;
        }
        return undefined;
      },
    });
    await writeFileAtomic(join(run, usageFile), `${JSON.stringify(mixture.usage(), null, 2)}\n`);
    return completed;
  } finally {
    for (const parameter of [...optimizer.namedState().values(), random.state]) parameter.dispose();
  }
}

function emptyPart(
  rows: number,
  sequence: number,
  { segments, weights, counted }: { segments: boolean; weights: boolean; counted: boolean },
): PartTensors {
  const of = (dtype: Dtype) => zeros([rows, sequence], dtype);
  return {
    tokens: of("i32"),
    targets: of("i32"),
    temperature: zeros([]),
    ...(segments && { segments: of("i32"), positions: of("i32") }),
    ...(weights && { weights: of("f32") }),
    ...(counted && { counted: of("f32") }),
  };
}

/**
 * @param holes whether some positions predict nothing: the loss is then the mean over those of the batch that do
 * @param temperature of sampling routers
 */
function partsOf(
  batches: readonly TokenBatch[],
  { holes, temperature }: { holes: boolean; temperature: number },
): PreparedBatch {
  let trained = 0;
  for (const { targets } of batches) for (const target of targets) if (target >= 0) trained++;
  const weighted = holes || batches.length > 1;
  const parts = batches.map(({ batch, sequence, tokens, targets, segments, positions, filled }): PartTensors => {
    const of = (values: Int32Array | Float32Array) => tensor(values, { shape: [batch, sequence] });
    const standing = (_: number, at: number) => Number(at % sequence < filled![Math.floor(at / sequence)]!);
    const weight = (target: number) => (target >= 0 ? 1 / trained : 0);
    return {
      tokens: of(tokens),
      targets: of(targets),
      temperature: tensor(Float32Array.of(temperature), { shape: [] }),
      ...(segments && { segments: of(segments) }),
      ...(positions && { positions: of(positions) }),
      ...(weighted && { weights: of(Float32Array.from(targets, weight)) }),
      ...(filled && { counted: of(Float32Array.from(targets, standing)) }),
    };
  });
  return { parts, trained };
}

/** Scalars of a step from those of its parts: losses add up, the rest comes from the last. */
async function sumOf(parts: readonly Promise<Record<string, Tensor>>[]): Promise<StepScalars> {
  const added = new Set(["loss", "crossEntropy", "balance", "zLoss"]);
  const scalars: Record<string, number> = {};
  for (const part of await Promise.all(parts)) {
    for (const [name, value] of Object.entries(part)) {
      const number = await value.item();
      scalars[name] = added.has(name) ? (scalars[name] ?? 0) + number : number;
    }
  }
  return scalars as StepScalars;
}

/** Name of the file in a run directory that says what was taken of each domain. */
const usageFile = "domains.json";

/** What a training run took of each domain; undefined before its end. */
export async function domainUsage(run: string): Promise<DomainUsage[] | undefined> {
  if (!existsSync(join(run, usageFile))) return undefined;
  return JSON.parse(await readFile(join(run, usageFile), "utf8")) as DomainUsage[];
}

/** The training losses written in a run directory. */
export async function lossCurve(run: string): Promise<LossPoint[]> {
  const records = await readMetricsFile(join(run, RUN_LAYOUT.metrics));
  return records.flatMap(({ step, kind, values }) =>
    kind === "train" ? [{ step, loss: values.crossEntropy ?? values.loss! }] : [],
  );
}
