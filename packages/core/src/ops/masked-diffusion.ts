import { DtypeError, ShapeError } from "../tensor/errors.js";
import { type Shape, sameShape } from "../tensor/shape.js";
import type { Tensor } from "../tensor/tensor.js";
import { applyAll, defineOp } from "./op.js";

const opStep = defineOp({
  name: "masked_diffusion_step",
  kernel: "masked_diffusion_step",
  operands: ["f32", "f32", "i32", "i32", "f32", "i32", "f32"],
  gradient: "zero",
});

/** What one step of parallel decoding works on. All of it is data: one compiled program serves every step. */
export interface MaskedStepInputs {
  /** f32 [B, N, V]. */
  logits: Tensor;
  /** Logits without the condition, or under a negative prompt, [B, N, V]. Absent: no guidance. */
  unconditional?: Tensor | null;
  /** i32 [B, N]; those equal to `maskToken` are sampled, the others are known and never change. */
  tokens: Tensor;
  /** i32 [B]: how many tokens are masked after this step, see `maskCounts`. 0 ends; a step reveals one token at least. */
  remaining: Tensor;
  /**
   * f32 [3]: `guidance` w, `temperature`, `noise`.
   * Logits are `(1 + w) logits - w unconditional`; temperature 0 is greedy; noise scales the Gumbel noise on the confidence.
   */
  controls: Tensor;
  /** Where given, the masked positions of the highest priority are revealed first, whatever their confidence: f32 [N] or [B, N]. */
  priority?: Tensor | null;
}

export interface MaskedStepOptions {
  /** The token that stands for "not known yet"; outside the vocabulary of V. */
  maskToken: number;
  /** Keep only the k most likely tokens; 0 keeps all. Default 0. */
  topK?: number;
  /** Keep the smallest set of tokens whose probability reaches this; 1 keeps all. Default 1. */
  topP?: number;
  /** What is revealed first: the most confident token, or any. Default "confidence". */
  order?: "confidence" | "random";
}

export interface MaskedStepResult {
  /** i32 [B, N]: input of the next step, with the least confident `remaining` positions masked again. */
  tokens: Tensor;
  /** i32 [B, N]: every position sampled, before masking: the picture so far. */
  sampled: Tensor;
  /** [B, N]: log-probability of the sampled token (guided, unfiltered, temperature 1) plus noise; +inf where it was known. */
  confidence: Tensor;
}

function checkInputs(inputs: MaskedStepInputs, state: Tensor): void {
  const { logits, unconditional, tokens, remaining, controls, priority } = inputs;
  const fail = (reason: string, ...shapes: Shape[]) => new ShapeError("maskedDiffusionStep", reason, shapes);
  if (logits.rank !== 3) throw fail("logits must be [B, N, V]", logits.shape);
  const [batch, positions, codes] = logits.shape as [number, number, number];
  if (codes < 1) throw fail("there are no codes to choose from", logits.shape);
  if (unconditional && !sameShape(unconditional.shape, logits.shape)) {
    throw fail("both kinds of logits must have one shape", logits.shape, unconditional.shape);
  }
  if (!sameShape(tokens.shape, [batch, positions])) throw fail("tokens must be [B, N]", logits.shape, tokens.shape);
  if (!sameShape(remaining.shape, [batch])) throw fail("remaining must be [B]", logits.shape, remaining.shape);
  if (!sameShape(controls.shape, [3])) throw fail("controls must be [3]", controls.shape);
  if (priority && !sameShape(priority.shape, [positions]) && !sameShape(priority.shape, [batch, positions])) {
    throw fail("priority must be [N] or [B, N]", logits.shape, priority.shape);
  }
  if (!sameShape(state.shape, [4]) && !sameShape(state.shape, [batch, 4])) {
    throw fail("the state must be [4] or [B, 4]", logits.shape, state.shape);
  }
  for (const [name, tensor, dtype] of [
    ["tokens", tokens, "i32"],
    ["remaining", remaining, "i32"],
    ["state", state, "i32"],
    ["logits", logits, "f32"],
    ["unconditional", unconditional, "f32"],
    ["controls", controls, "f32"],
    ["priority", priority, "f32"],
  ] as const) {
    if (tensor && tensor.dtype !== dtype) {
      throw new DtypeError("maskedDiffusionStep", `${name} must be ${dtype}`, [tensor.dtype]);
    }
  }
}

/**
 * One step of masked-token decoding (MaskGIT, arXiv 2202.04200, section 3.2, with the guidance of MUSE, arXiv 2301.00704): samples
 * every masked position, then masks the least confident ones again.
 * @param state i32 [4], `[seed low, seed high, step low, step high]`; or [B, 4], one to a sequence: its numbers then do not depend
 *   on where in a batch it stands. `RandomGenerator.maskedDiffusionStep` brings its own and moves it on.
 * @param stream tells random ops that share a state apart
 */
export function maskedDiffusionStep(
  inputs: MaskedStepInputs,
  options: MaskedStepOptions,
  state: Tensor,
  stream = 0,
): MaskedStepResult {
  checkInputs(inputs, state);
  const { logits, unconditional = null, tokens, remaining, controls, priority = null } = inputs;
  const { maskToken, topK = 0, topP = 1, order = "confidence" } = options;
  if (!Number.isSafeInteger(maskToken) || !(topK >= 0 && Number.isInteger(topK)) || !(topP > 0 && topP <= 1)) {
    throw new ShapeError(
      "maskedDiffusionStep",
      `needs a whole maskToken, whole topK >= 0, 0 < topP <= 1; got ${maskToken}, ${topK}, ${topP}`,
      [logits.shape],
    );
  }
  const [next, sampled, confidence] = applyAll(
    opStep,
    [logits, unconditional, tokens, remaining, controls, state, priority],
    [
      { shape: tokens.shape, dtype: "i32" },
      { shape: tokens.shape, dtype: "i32" },
      { shape: tokens.shape, dtype: "f32" },
    ],
    [maskToken, topK, topP, order === "random" ? 1 : 0, stream],
  );
  return { tokens: next!, sampled: sampled!, confidence: confidence! };
}
