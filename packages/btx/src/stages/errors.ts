import { TrefoilError } from "@trefoil/core";

export type StageErrorCode = "BTX_TOKENIZER" | "BTX_MODEL" | "BTX_OPTIONS" | "BTX_BRANCHES";

/** A stage that cannot start with what it was given. */
export class StageError extends TrefoilError {
  declare readonly code: StageErrorCode;

  constructor(code: StageErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
