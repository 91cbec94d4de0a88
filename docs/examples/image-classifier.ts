// A classifier of images with a layer of its own, dropout, gradient accumulation, evaluation, checkpoints and resume.
import {
  AdamW,
  argmax,
  averagePool2,
  type BatchPart,
  batchParts,
  Conv2d,
  compile,
  cosineSchedule,
  crossEntropy,
  equal,
  GradientAccumulator,
  GroupNorm,
  gradients,
  InitialValues,
  Linear,
  loadLatestCheckpoint,
  Module,
  namedState,
  RandomGenerator,
  relu,
  restoreParameters,
  saveCheckpoint,
  storedTensors,
  type Tensor,
} from "@trefoil/core";

/** Convolution, norm and activation, then half the width and height. */
class Stage extends Module {
  readonly conv: Conv2d;
  readonly norm: GroupNorm;

  constructor(inputs: number, outputs: number, initial: InitialValues) {
    super();
    this.conv = new Conv2d(inputs, outputs, { padding: 1, bias: false, initial });
    this.norm = new GroupNorm(outputs, 4);
  }

  forward(x: Tensor): Tensor {
    return averagePool2(relu(this.norm.forward(this.conv.forward(x))));
  }
}

class Classifier extends Module {
  readonly stages: Stage[];
  readonly head: Linear;

  constructor(classes: number, initial = new InitialValues(0)) {
    super();
    this.stages = [new Stage(1, 16, initial), new Stage(16, 32, initial)];
    this.head = new Linear(32, classes, { initial });
  }

  /** images [N, H, W, 1] -> logits [N, classes]; with dropout where there is a generator for it */
  forward(images: Tensor, random?: RandomGenerator): Tensor {
    const features = this.stages.reduce((x, stage) => stage.forward(x), images).mean({ axes: [1, 2] });
    return this.head.forward(random ? random.dropout(features, 0.1) : features);
  }
}

/** Half of a batch: images [N, H, W, 1], labels i32 [N]. */
type Batch = { images: Tensor; labels: Tensor };

export interface TrainOptions {
  /** The two halves of a step's batch. */
  batch: (step: number) => readonly [Batch, Batch];
  test: Batch;
  classes: number;
  steps: number;
  /** Where the schedule ends; a run that is stopped before and resumed has the same. */
  totalSteps: number;
  /** Checkpoints are kept here; training goes on from the last one. */
  run: string;
}

export async function train({ batch, test, classes, steps, totalSteps, run }: TrainOptions) {
  const model = new Classifier(classes);
  const random = new RandomGenerator(1);
  const parameters = model.parameters();
  const optimizer = new AdamW(parameters, {
    learningRate: cosineSchedule({ peak: 3e-3, warmupSteps: 5, totalSteps }),
    beta2: 0.999,
  });
  using accumulator = new GradientAccumulator(parameters);
  const halves = batchParts(2);

  const step = compile((images: Tensor, labels: Tensor, part: BatchPart) => {
    const { loss } = crossEntropy(model.forward(images, random), labels);
    const sums = accumulator.add(gradients(loss.mul(1 / halves.length), parameters), part);
    if (sums) optimizer.apply(sums);
    return loss;
  });
  const evaluate = compile((images: Tensor, labels: Tensor) => {
    const logits = model.forward(images);
    return { loss: crossEntropy(logits, labels).loss, accuracy: equal(argmax(logits), labels).mean() };
  });

  const state = namedState({ model, optimizer, random });
  const found = await loadLatestCheckpoint(run);
  if (found) restoreParameters(state, found.checkpoint.tensors, found.checkpoint.path);
  for (let i = found?.checkpoint.step ?? 0; i < steps; i++) {
    for (const [at, { images, labels }] of batch(i).entries()) await step(images, labels, halves[at]!);
    if ((i + 1) % 10 === 0)
      await saveCheckpoint(run, i + 1, { tensors: await storedTensors(state), state: null }, { keepLast: 2 });
  }
  const { loss, accuracy } = await evaluate(test.images, test.labels);
  return { loss: await loss.item(), accuracy: await accuracy.item() };
}
