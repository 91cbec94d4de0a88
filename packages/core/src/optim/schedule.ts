import { add, cos, divide, less, maximum, minimum, multiply, where } from "../ops/elementwise.js";
import { full, type Tensor } from "../tensor/tensor.js";

/** A learning rate as a graph over the step (a scalar tensor, counted from 1): schedules run on the device, inside the program. */
export type Schedule = (step: Tensor) => Tensor;

/** The same rate throughout. */
export const constantSchedule =
  (rate: number): Schedule =>
  () =>
    full([], rate);

export interface WarmupOptions {
  /** Highest rate, reached after warm-up. */
  peak: number;
  /** Steps over which the rate rises linearly from 0. */
  warmupSteps: number;
  /** Step at which the rate has fallen to `floor`. */
  totalSteps: number;
  /** Rate at the end. Default 0. */
  floor?: number;
}

const warmed = ({ warmupSteps, peak }: WarmupOptions, step: Tensor, after: Tensor): Tensor =>
  warmupSteps > 0 ? where(less(step, warmupSteps), multiply(step, peak / warmupSteps), after) : after;

// How far the fall has come: 0 at the end of warm-up, 1 at totalSteps.
const progress = ({ warmupSteps, totalSteps }: WarmupOptions, step: Tensor): Tensor =>
  minimum(maximum(divide(add(step, -warmupSteps), Math.max(1, totalSteps - warmupSteps)), 0), 1);

/** Linear warm-up, then half a cosine down to `floor` (SGDR, arXiv 1608.03983, without restarts). */
export const cosineSchedule =
  (options: WarmupOptions): Schedule =>
  (step) => {
    const { peak, floor = 0 } = options;
    const wave = add(cos(multiply(progress(options, step), Math.PI)), 1);
    return warmed(options, step, add(multiply(wave, (peak - floor) / 2), floor));
  };

/** Linear warm-up, then a straight line down to `floor`. */
export const linearSchedule =
  (options: WarmupOptions): Schedule =>
  (step) => {
    const { peak, floor = 0 } = options;
    return warmed(options, step, add(multiply(progress(options, step), floor - peak), peak));
  };
