import { TrefoilError } from "../tensor/errors.js";

export type TokenizerErrorCode =
  | "TOKENIZER_MISSING"
  | "TOKENIZER_INVALID"
  | "TOKENIZER_UNKNOWN_ID"
  | "TOKENIZER_TRAINING";

/** A tokenizer that cannot be read, trained or applied. */
export class TokenizerError extends TrefoilError {
  declare readonly code: TokenizerErrorCode;

  constructor(code: TokenizerErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
