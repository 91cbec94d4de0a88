import { defined } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import type { Task } from "../tasks/index.js";
import { BitsPerByte, type WindowOptions } from "./bits-per-byte.js";
import { answerTask, exactMatch } from "./exact-match.js";
import type { OpenModel } from "./model.js";

/** What one model scored. */
export interface ModelScores {
  model: string;
  /** By domain. */
  bitsPerByte: Record<string, number>;
  /** By task, the share of questions answered right, 0 to 1; null where they do not fit into the context. */
  exactMatch: Record<string, number | null>;
}

export interface EvaluateOptions extends WindowOptions {
  /** Questions that are asked too. */
  tasks?: readonly Task[];
  signal?: AbortSignal;
}

/** Scores a model on held-out text, and on questions. @param name under which it is reported */
export async function evaluateModel(
  { model, tokenizer }: OpenModel,
  name: string,
  domains: readonly DomainTokens[],
  options: EvaluateOptions,
): Promise<ModelScores> {
  const { tasks = [], signal } = options;
  const measure = new BitsPerByte(model, tokenizer);
  const scores: ModelScores = { model: name, bitsPerByte: {}, exactMatch: {} };
  for (const domain of domains) scores.bitsPerByte[domain.name] = await measure.of(domain.heldOut, options, signal);
  for (const task of tasks) {
    const answers = await answerTask(model, tokenizer, task, defined({ signal }));
    scores.exactMatch[task.name] = answers ? exactMatch(answers) : null;
  }
  return scores;
}
