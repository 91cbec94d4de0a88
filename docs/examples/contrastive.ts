// Two towers under a contrastive loss (InfoNCE), with an optimiser of one's own and an average of the weights.
import {
  clipGradients,
  compile,
  crossEntropy,
  exp,
  gatherLast,
  gradients,
  iota,
  type Linear,
  logSoftmax,
  Parameter,
  sqrt,
  type Tensor,
} from "@trefoil/core";

const normalize = (x: Tensor) => x.div(sqrt(x.square().sum({ axes: -1, keepDims: true }).add(1e-12)));

/** InfoNCE in both directions: row i of a belongs to row i of b. */
export function infoNce(a: Tensor, b: Tensor, temperature: number): Tensor {
  const scores = normalize(a).matmul(normalize(b), { transposeB: true }).div(temperature);
  const own = iota(a.shape[0]!);
  return crossEntropy(scores, own).loss.add(crossEntropy(scores.transpose(), own).loss).mul(0.5);
}

/** Focal loss of logits [T, V] and targets i32 [T]. */
export function focal(logits: Tensor, targets: Tensor, gamma: number): Tensor {
  const logp = gatherLast(logSoftmax(logits), targets.reshape([-1, 1]));
  return exp(logp).neg().add(1).pow(gamma).mul(logp).mean().neg();
}

/** Momentum. Its state is parameters, so `namedState` and checkpoints take it. */
class Momentum {
  readonly parameters: readonly Parameter[];
  readonly rate: number;
  readonly velocities: Parameter[];

  constructor(parameters: readonly Parameter[], rate: number) {
    this.parameters = parameters;
    this.rate = rate;
    this.velocities = parameters.map(({ shape }) => new Parameter(shape, { trainable: false }));
  }

  apply(grads: readonly Tensor[]): void {
    this.parameters.forEach((parameter, i) => {
      const velocity = this.velocities[i]!.mul(0.9).add(grads[i]!);
      this.velocities[i]!.assign(velocity);
      parameter.assign(parameter.sub(velocity.mul(this.rate)));
    });
  }

  namedState() {
    return new Map(this.velocities.map((velocity, i) => [`velocity.${i}`, velocity]));
  }
}

export function contrastiveStep(left: Linear, right: Linear) {
  const parameters = [...left.parameters(), ...right.parameters()];
  const optimizer = new Momentum(parameters, 0.1);
  const averages = parameters.map(({ shape }) => new Parameter(shape, { trainable: false }));
  const step = compile((a: Tensor, b: Tensor) => {
    const loss = infoNce(left.forward(a), right.forward(b), 0.1);
    optimizer.apply(clipGradients(gradients(loss, parameters), 1).gradients);
    // Parameters read as what the optimiser has just made of them.
    averages.forEach((average, i) => {
      average.assign(average.mul(0.99).add(parameters[i]!.mul(0.01)));
    });
    return loss;
  });
  return { step, optimizer, averages };
}
