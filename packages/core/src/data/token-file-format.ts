import { z } from "zod";

/**
 * A token file: 8 bytes of magic, the header's length as u32, the header as JSON, zeros up to `tokensOffset`; then the tokens as
 * u16 or u32; then, 8-byte aligned, the end of each document as u64, counted in tokens. All little-endian.
 */
export const magic: Uint8Array = Buffer.from("TREFTOK1", "latin1");
export const tokensOffset = 4096;
export const maxHeaderBytes = tokensOffset - 12;

export const headerSchema = z.strictObject({
  version: z.literal(1),
  dtype: z.enum(["u16", "u32"]),
  vocabSize: z.number().int().positive(),
  tokens: z.number().int().nonnegative(),
  documents: z.number().int().nonnegative(),
  /** UTF-8 bytes of the text, for bits per byte. End-of-text tokens have none. */
  textBytes: z.number().int().nonnegative(),
  /** `Tokenizer.hash` of the tokenizer that made the tokens. */
  tokenizerHash: z.string(),
  /** What the tokens were made from: equal fingerprints, equal tokens. */
  fingerprint: z.string(),
});

export type TokenFileHeader = z.infer<typeof headerSchema>;

export function bytesPerToken(dtype: TokenFileHeader["dtype"]): 2 | 4 {
  return dtype === "u16" ? 2 : 4;
}

/** Where the document ends begin. */
export function documentsOffset({ dtype, tokens }: Pick<TokenFileHeader, "dtype" | "tokens">): number {
  return tokensOffset + Math.ceil((tokens * bytesPerToken(dtype)) / 8) * 8;
}

export function fileBytes(header: Pick<TokenFileHeader, "dtype" | "tokens" | "documents">): number {
  return documentsOffset(header) + 8 * header.documents;
}
