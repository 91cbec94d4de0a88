import { TrefoilError } from "@trefoil/core";

export type MixErrorCode =
  | "MIX_INCOMPATIBLE"
  | "MIX_NOT_DENSE"
  | "MIX_MISSING_TENSOR"
  | "MIX_UNEXPECTED_TENSOR"
  | "MIX_WRONG_SHAPE"
  | "MIX_WRONG_DTYPE"
  | "MIX_NOT_FINITE"
  | "MIX_OPTIONS"
  | "MIX_VERIFICATION";

/** Checkpoints that cannot be mixed, or a mixture that did not come out as it should. */
export class MixError extends TrefoilError {
  declare readonly code: MixErrorCode;

  constructor(
    code: MixErrorCode,
    message: string,
    /** What is at fault: the config field, tensor and folders, with their values. */
    readonly operands: Readonly<Record<string, unknown>> = {},
  ) {
    super(code, message);
  }
}
