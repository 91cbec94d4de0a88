import { TrefoilError } from "@trefoil/core";

export type RlhfErrorCode =
  | "RLHF_DATA"
  | "RLHF_OPTIONS"
  | "RLHF_MODEL"
  | "RLHF_TOKENIZER"
  | "RLHF_STORE"
  | "RLHF_STORE_MISMATCH"
  | "RLHF_REWARD"
  | "RLHF_RATIO"
  | "RLHF_ALARM"
  | "RLHF_JUDGE";

/** What a stage cannot go on with: wrong data, a store of another model, a reward that is not a number, an alarm. */
export class RlhfError extends TrefoilError {
  declare readonly code: RlhfErrorCode;

  constructor(code: RlhfErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
