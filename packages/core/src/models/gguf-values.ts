import type { GgufValue } from "../io/gguf-writer.js";
import { TrefoilError } from "../tensor/errors.js";

/** A model or tokenizer that llama.cpp's `llama` architecture cannot express. */
export class GgufError extends TrefoilError {
  constructor(message: string) {
    super("TREFOIL_GGUF_UNSUPPORTED", message);
  }
}

export const u32 = (value: number): GgufValue => ({ type: "u32", value });
export const f32 = (value: number): GgufValue => ({ type: "f32", value });
export const text = (value: string): GgufValue => ({ type: "string", value });
export const bool = (value: boolean): GgufValue => ({ type: "bool", value });
