import { TrefoilError } from "@trefoil/core";

export type SynthErrorCode =
  | "SYNTH_OPTIONS"
  | "SYNTH_DATA"
  | "SYNTH_IMAGE"
  | "SYNTH_TAR"
  | "SYNTH_MODEL"
  | "SYNTH_TOKENIZER_MISMATCH"
  | "SYNTH_VOCABULARY_MISMATCH"
  | "SYNTH_STORE"
  | "SYNTH_CAPTIONER";

/** What a stage cannot go on with: unusable data, codes of another tokenizer, captions of another vocabulary. */
export class SynthError extends TrefoilError {
  declare readonly code: SynthErrorCode;

  constructor(code: SynthErrorCode, message: string, options?: ErrorOptions) {
    super(code, message, options);
  }
}
