import { generate, type Mixtral, type TokenFile, type Tokenizer } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import type { OpenModel } from "./model.js";
import { firstChoices } from "./routing.js";

/** Held-out text with the expert that each token went to first. */
export interface RoutedSample {
  domain: string;
  tokens: { text: string; expert: number; weight: number }[];
}

/** The beginning of each domain's held-out text, routed in one layer. @param length tokens */
export async function routedSamples(
  { mixture, tokenizer }: Pick<OpenModel, "mixture" | "tokenizer">,
  domains: readonly DomainTokens[],
  options: { length: number; layer: number },
): Promise<RoutedSample[]> {
  const samples: RoutedSample[] = [];
  for (const { name, heldOut } of domains) {
    const ids = beginningOf(heldOut, Math.min(options.length, mixture.config.maxPositions));
    const { expert, weight } = (await firstChoices(mixture, ids))[options.layer]!;
    const tokens = Array.from(ids, (id, i) => ({
      text: textOf(tokenizer, id),
      expert: expert[i]!,
      weight: weight[i]!,
    }));
    samples.push({ domain: name, tokens });
  }
  return samples;
}

/**
 * What each domain's held-out text begins with, and how the model goes on, drawn at temperature 0.7, within its
 * context.
 */
export async function continuations(
  model: Mixtral,
  tokenizer: Tokenizer,
  domains: readonly DomainTokens[],
  options: { promptTokens: number; newTokens: number; signal?: AbortSignal },
): Promise<{ domain: string; prompt: string; continuation: string }[]> {
  const { newTokens, signal } = options;
  const promptTokens = Math.min(options.promptTokens, Math.floor(model.config.maxPositions / 2));
  const prompts = domains.map(({ heldOut }) => beginningOf(heldOut, promptTokens));
  const generated = await generate(model, prompts, {
    maxNewTokens: Math.min(newTokens, model.config.maxPositions - promptTokens),
    temperature: 0.7,
    topP: 0.95,
    ...(signal && { signal }),
  });
  return domains.map(({ name }, i) => ({
    domain: name,
    prompt: tokenizer.decode(prompts[i]!),
    continuation: tokenizer.decode(generated[i]!.tokens),
  }));
}

function beginningOf(file: TokenFile, length: number): Int32Array {
  const ids = new Int32Array(Math.min(length, file.tokens));
  file.read(0, ids);
  return ids;
}

/** A token may be a part of a character. */
function textOf(tokenizer: Tokenizer, id: number): string {
  return tokenizer.decode([id], { specialTokens: true });
}
