import { TrefoilError } from "../tensor/errors.js";

export type DataErrorCode =
  | "DATA_NOT_FOUND"
  | "DATA_INVALID_TEXT"
  | "DATA_INVALID_JSONL"
  | "DATA_EMPTY"
  | "DATA_INVALID_OPTION"
  | "DATA_WRONG_TOKENIZER"
  | "DATA_DAMAGED_TOKEN_FILE"
  | "DATA_CURSOR_MISMATCH";

/** Training data that cannot be read, or does not fit what is asked of it. */
export class DataError extends TrefoilError {
  declare readonly code: DataErrorCode;

  constructor(code: DataErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
