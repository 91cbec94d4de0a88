import type { PromptTokens } from "../../data/index.js";
import { hashTokens, type OpenPolicy, type Sampler } from "../../models/index.js";
import type { ScoredSample } from "../rewards.js";

/** A sampled response with all that the stage knows of its prompt. */
export interface Rollout extends ScoredSample {
  promptSha: string;
}

export interface RolloutSettings {
  temperature: number;
  maxNewTokens: number;
  seed: number;
  stream: number;
}

/** Samples each prompt `samples` times; those of one prompt stand together. */
export async function rollOut(
  sampler: Sampler,
  { tokenizer, eosTokenIds }: Pick<OpenPolicy, "tokenizer" | "eosTokenIds">,
  prompts: readonly PromptTokens[],
  samples: number,
  settings: RolloutSettings,
): Promise<Rollout[]> {
  // A prompt drawn twice in one iteration gets samples of its own each time.
  const seen = new Map<string, number>();
  const requests = prompts.flatMap((prompt) => {
    const sha = hashTokens(prompt.tokens);
    const first = seen.get(sha) ?? 0;
    seen.set(sha, first + samples);
    return Array.from({ length: samples }, (_, i) => ({ prompt, sha, sample: first + i }));
  });
  const responses = await sampler.sample(
    requests.map(({ prompt, sample }) => ({ prompt: prompt.tokens, sample })),
    { ...settings, eosTokenIds },
  );
  return requests.map(({ prompt, sha }, i) => ({
    prompt: prompt.tokens,
    promptText: prompt.prompt,
    promptSha: sha,
    row: prompt.row,
    response: responses[i]!.tokens,
    responseText: tokenizer.decode(responses[i]!.tokens),
    ended: responses[i]!.ended,
  }));
}
