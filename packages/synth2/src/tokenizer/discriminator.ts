import {
  add,
  Conv2d,
  clamp,
  divide,
  gradients,
  type InitialValues,
  Module,
  maximum,
  mean,
  multiply,
  negate,
  type Parameter,
  relu,
  sqrt,
  square,
  stopGradient,
  subtract,
  sum,
  sumSquares,
  type Tensor,
} from "@trefoil/core";

const leaky = (x: Tensor): Tensor => maximum(x, multiply(x, 0.2));

/**
 * PatchGAN: a score for every patch, [N, S, S, 3] -> [N, s, s, 1] (arXiv 1611.07004). It has no norms: convolutions and leaky
 * ReLUs are what the R1 penalty can be differentiated through twice.
 */
export class PatchDiscriminator extends Module {
  readonly layers: Conv2d[];
  readonly output: Conv2d;

  constructor(channels: readonly number[], initial: InitialValues) {
    super();
    this.layers = channels.map(
      (width, i) => new Conv2d(channels[i - 1] ?? 3, width, { kernelSize: 4, stride: 2, padding: 1, initial }),
    );
    this.output = new Conv2d(channels.at(-1)!, 1, { padding: 1, initial });
  }

  forward(images: Tensor): Tensor {
    return this.output.forward(this.layers.reduce((x, layer) => leaky(layer.forward(x)), images));
  }

  /** Hinge loss of real against reconstructed images: `½ mean [relu(1 - D(x)) + relu(1 + D(x̂))]`. */
  loss(real: Tensor, fake: Tensor): { loss: Tensor; realScore: Tensor; fakeScore: Tensor } {
    const [onReal, onFake] = [this.forward(real), this.forward(stopGradient(fake))];
    const loss = multiply(add(mean(relu(subtract(1, onReal))), mean(relu(add(onFake, 1)))), 0.5);
    return { loss, realScore: mean(onReal), fakeScore: mean(onFake) };
  }

  /** R1 (arXiv 1801.04406, equation 9): mean squared length of the score's gradient at real images. */
  gradientPenalty(real: Tensor): Tensor {
    const [slope] = gradients(sum(this.forward(real)), [real]);
    return divide(sum(square(slope!)), real.shape[0]!);
  }

  /** What the decoder is asked to raise: the mean score of its images, negative. */
  generatorLoss(fake: Tensor): Tensor {
    return negate(mean(this.forward(fake)));
  }
}

/**
 * `‖∇ reconstruction‖ / (‖∇ adversarial‖ + 1e-4)` at the decoder's last layer, at most 1e4, a constant to differentiation (VQ-GAN,
 * arXiv 2012.09841, equation 7).
 */
export function adaptiveWeight(reconstruction: Tensor, adversarial: Tensor, lastLayer: Parameter): Tensor {
  const length = (loss: Tensor) => sqrt(sumSquares(gradients(loss, [lastLayer])));
  return stopGradient(clamp(divide(length(reconstruction), add(length(adversarial), 1e-4)), 0, 1e4));
}
