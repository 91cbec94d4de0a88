import type { DomainTokens } from "../domains/index.js";
import { BitsPerByte, type WindowOptions } from "./bits-per-byte.js";
import { answerArithmetic, type ExactMatchOptions, exactMatch } from "./exact-match.js";
import type { OpenModel } from "./model.js";
import { context } from "./seed.js";

/** What one model scored. */
export interface ModelScores {
  model: string;
  /** By domain. */
  bitsPerByte: Record<string, number>;
  /** Share of arithmetic problems solved, 0 to 1; absent when none were asked. */
  exactMatch?: number;
}

export interface EvaluateOptions extends WindowOptions {
  /** Ask arithmetic problems too. */
  arithmetic?: Pick<ExactMatchOptions, "count" | "heldOutShare">;
  signal?: AbortSignal;
}

/** Scores a model on held-out text. @param name under which it is reported */
export async function evaluateModel(
  { model, tokenizer }: OpenModel,
  name: string,
  domains: readonly DomainTokens[],
  options: EvaluateOptions,
): Promise<ModelScores> {
  const { arithmetic, signal } = options;
  const measure = new BitsPerByte(model, tokenizer);
  const scores: ModelScores = { model: name, bitsPerByte: {} };
  for (const domain of domains) scores.bitsPerByte[domain.name] = await measure.of(domain.heldOut, options, signal);
  if (arithmetic)
    scores.exactMatch = exactMatch(await answerArithmetic(model, tokenizer, { ...arithmetic, ...context({ signal }) }));
  return scores;
}
