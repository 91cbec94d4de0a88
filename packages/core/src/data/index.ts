export { emptyBatch, ignoredTarget, type TokenBatch } from "./batch.js";
export { ChatEncoder, type ChatMessage, type Conversation } from "./chat.js";
export { readDocuments, type TextDocument, type TextSource } from "./documents.js";
export { DataError, type DataErrorCode } from "./errors.js";
export { type EvaluationOptions, evaluationBatches } from "./evaluation.js";
export {
  type DocumentLayout,
  type Domain,
  type DomainUsage,
  documentLayouts,
  type MixtureOptions,
  type MixtureState,
  TokenMixture,
} from "./mixture.js";
export { NearCopies } from "./near-copies.js";
export { PackedRows, type Piece } from "./packing.js";
export { Permutation, rowsFrom, rowsOfStep } from "./permutation.js";
export { philox } from "./philox.js";
export { type PreparedTokens, type PrepareOptions, prepareTokens } from "./prepare.js";
export { isHeldOut } from "./split.js";
export { type RangeReader, TokenFile, type TokenFileOptions } from "./token-file.js";
export type { TokenFileHeader } from "./token-file-format.js";
export { TokenFileWriter } from "./token-file-writer.js";
