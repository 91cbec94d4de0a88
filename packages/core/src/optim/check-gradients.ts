import { ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import type { Parameter, Tensor } from "../tensor/tensor.js";

/** That there is one gradient of each parameter's shape, in the same order. @throws ShapeError */
export function requireGradientsOf(op: string, parameters: readonly Parameter[], gradients: readonly Tensor[]): void {
  if (gradients.length !== parameters.length)
    throw new ShapeError(op, `${gradients.length} gradients for ${parameters.length} parameters`, []);
  const wrong = parameters.findIndex(({ shape }, i) => !sameShape(shape, gradients[i]!.shape));
  if (wrong < 0) return;
  const shapes = [parameters[wrong]!.shape, gradients[wrong]!.shape];
  throw new ShapeError(
    op,
    `gradient ${wrong} has not its parameter's shape: give them in the order of the parameters`,
    shapes,
  );
}
