import { DtypeError, ShapeError } from "../tensor/errors.js";
import { type Shape, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { apply, applyAll, defineOp } from "./op.js";

// Every random op of a program has a stream of its own, an attribute: equal ops never share numbers.
const opUniform = defineOp({ name: "random_uniform", kernel: "random_uniform", operands: ["i32"], gradient: "zero" });
const opNormal = defineOp({ name: "random_normal", kernel: "random_normal", operands: ["i32"], gradient: "zero" });
const opAdvance = defineOp({
  name: "random_advance_",
  kernel: "random_advance_",
  operands: ["i32"],
  inPlace: () => [[0, 0]],
});
const opSampleTokens = defineOp({
  name: "sample_tokens",
  kernel: "sample_tokens",
  operands: ["f32", "i32"],
  gradient: "zero",
});

/** Uniform on [0, 1), from Philox 4x32-10 keyed by `state` (i32 [4]) and `stream`. */
export const philoxUniform = (state: Tensor, shape: Shape, stream: number): Tensor =>
  apply(opUniform, [state], { shape, dtype: "f32" }, [stream]);

/** Standard normal, from the same generator. */
export const philoxNormal = (state: Tensor, shape: Shape, stream: number): Tensor =>
  apply(opNormal, [state], { shape, dtype: "f32" }, [stream]);

/** The state one step later, i32 [4], or [B, 4]: a state to each row. */
export const philoxAdvance = (state: Tensor): Tensor => apply(opAdvance, [state], { shape: state.shape, dtype: "i32" });

export interface SamplingOptions {
  /** 0 is greedy. Default 1. */
  temperature?: number;
  /** Keep only the k most likely tokens; 0 keeps all. Default 0. */
  topK?: number;
  /** Keep the smallest set of tokens whose probability reaches this; 1 keeps all. Default 1. */
  topP?: number;
}

/**
 * Draws one token per row.
 * @param logits [B, V]
 * @param state i32 [4], or [B, 4]: a state to each row, whose draws then do not depend on the batch
 * @returns token i32 [B]; logProbability [B] under the unfiltered distribution at temperature 1
 */
export function philoxSampleTokens(
  logits: Tensor,
  state: Tensor,
  stream: number,
  options: SamplingOptions = {},
): { token: Tensor; logProbability: Tensor } {
  const { temperature = 1, topK = 0, topP = 1 } = options;
  if (logits.rank !== 2) throw new ShapeError("sampleTokens", "logits must be [batch, vocabulary]", [logits.shape]);
  if (!(temperature >= 0) || !(topK >= 0 && Number.isInteger(topK)) || !(topP > 0 && topP <= 1)) {
    throw new ShapeError(
      "sampleTokens",
      `needs temperature >= 0, whole topK >= 0, 0 < topP <= 1; got ${temperature}, ${topK}, ${topP}`,
      [logits.shape],
    );
  }
  if (state.dtype !== "i32") throw new DtypeError("sampleTokens", "the state must be i32", [state.dtype]);
  if (!sameShape(state.shape, [4]) && !sameShape(state.shape, [logits.shape[0]!, 4]))
    throw new ShapeError("sampleTokens", "the state must be [4] or [B, 4]", [logits.shape, state.shape]);
  const row = [logits.shape[0]!];
  const [token, logProbability] = applyAll(
    opSampleTokens,
    [logits, state],
    [
      { shape: row, dtype: "i32" },
      { shape: row, dtype: "f32" },
    ],
    [temperature, topK, topP, stream],
  );
  return { token: token!, logProbability: logProbability! };
}
