import { loadTokenizer, ModelFolder, parseTransformerConfig } from "@trefoil/core";
import { EpisodeEncoder, longestOf, type PromptText } from "../data/index.js";
import { OpenPolicy, Sampler } from "../models/index.js";
import type { SamplingOptions } from "./baselines.js";
import type { ScoredSample } from "./rewards.js";

export interface RespondOptions {
  prompts: readonly PromptText[];
  /** Responses to each prompt; those of one prompt stand together. */
  samples: number;
  sampler: SamplingOptions;
  batch: number;
  signal?: AbortSignal;
}

/** Random numbers of evaluations: apart from those of baselines and of every iteration. */
const evaluationStream = 0x7fffffff;

/** Before much time is spent: whether a policy folder can read and answer prompts. @throws RlhfError, ModelFolderError, TokenizerError */
export async function requireReadable(
  path: string,
  prompts: readonly PromptText[],
  maxNewTokens: number,
): Promise<void> {
  await using folder = await ModelFolder.open(path);
  const { maxPositions } = parseTransformerConfig(await folder.readJson("config.json"), path);
  new EpisodeEncoder(await loadTokenizer(path), [], maxPositions).prompts(prompts, maxNewTokens);
}

/** Responses of a policy folder. */
export async function respond(path: string, options: RespondOptions): Promise<ScoredSample[]> {
  using policy = await OpenPolicy.open(path);
  return await respondWith(policy, options);
}

/** Responses of a policy in memory: two policies with one seed differ only where their probabilities do. */
export async function respondWith(
  policy: OpenPolicy,
  { prompts: texts, samples, sampler: settings, batch, signal }: RespondOptions,
): Promise<ScoredSample[]> {
  const encoder = new EpisodeEncoder(policy.tokenizer, policy.eosTokenIds, policy.model.config.maxPositions);
  const prompts = encoder.prompts(texts, settings.maxNewTokens);
  using sampler = new Sampler(
    policy.model,
    Math.min(batch, prompts.length * samples),
    longestOf(prompts, ({ tokens }) => tokens.length),
    settings.maxNewTokens,
  );
  const requests = prompts.flatMap((prompt) => Array.from({ length: samples }, (_, sample) => ({ prompt, sample })));
  const responses = await sampler.sample(
    requests.map(({ prompt, sample }) => ({ prompt: prompt.tokens, sample })),
    { ...settings, eosTokenIds: policy.eosTokenIds, stream: evaluationStream },
    signal,
  );
  return requests.map(({ prompt }, i) => ({
    prompt: prompt.tokens,
    promptText: prompt.prompt,
    row: prompt.row,
    response: responses[i]!.tokens,
    responseText: policy.tokenizer.decode(responses[i]!.tokens),
    ended: responses[i]!.ended,
  }));
}
