import { ModelFolder, readTransformerConfig } from "@trefoil/core";
import { blendExperts, type ExpertArrangement, splitExperts, wholeExperts } from "./arrangement.js";
import type { Source } from "./compatibility.js";
import { MixError } from "./errors.js";
import { expertNames, type MixPlan, type MixtureOptions, normalizedWeights, planMixture } from "./plan.js";
import { describeRouter } from "./router.js";
import { type MixResult, writeMixture } from "./write.js";

export interface MixOptions extends MixtureOptions {
  /**
   * Folders of dense checkpoints, branches of one seed; expert i of the mixture is the i-th. The first gives the
   * tokenizer.
   */
  experts: readonly string[];
  /** The seed as one more expert, the last: what it knows stays at hand unchanged (arXiv 2403.07816, §4.1). */
  generalist?: string;
  /** What each expert counts in the average of everything but the feed-forward layers. Default: all the same. */
  weights?: readonly number[];
  /** What the experts are called. Default: the names of their folders. */
  names?: readonly string[];
  /** How feed-forward layers become experts. Default: each one is one. */
  arrange?: { kind: "whole" } | { kind: "split"; chunks: number } | { kind: "blend" };
}

/** Checks the checkpoints and says what would be written, without reading weights. @throws MixError */
export async function planMix(options: MixOptions): Promise<MixPlan> {
  return await withSources(foldersOf(options), (sources) => plan(options, sources));
}

/**
 * Branch-Train-MiX's merge (arXiv 2403.07816, §3.2): the feed-forward layers of N dense checkpoints become the N
 * experts of a mixture, everything else is averaged. Streams: memory stays bounded whatever the size of the model. The
 * folder appears when it is complete and has been read back.
 * @throws MixError when the checkpoints do not fit together, a weight is missing or not finite
 */
export async function mix(options: MixOptions): Promise<MixResult> {
  const folders = foldersOf(options);
  return await withSources(folders, async (sources) => {
    const planned = await plan(options, sources);
    const { router = { kind: "random" }, arrange = { kind: "whole" } } = options;
    const description = {
      arrange,
      experts: folders.map((folder, i) => ({ folder, weight: planned.weights[i] })),
      router: describeRouter(router),
    };
    return await writeMixture(sources, planned, { options, description });
  });
}

const foldersOf = ({ experts, generalist }: MixOptions): string[] => [
  ...experts,
  ...(generalist === undefined ? [] : [generalist]),
];

/** Opens the checkpoints for as long as `use` takes. */
export async function withSources<R>(
  folders: readonly string[],
  use: (sources: Source[]) => Promise<R>,
  least = 2,
): Promise<R> {
  if (folders.length < least)
    throw new MixError("MIX_OPTIONS", `a mixture needs at least ${least} experts, got ${folders.length}`);
  const sources: Source[] = [];
  try {
    for (const path of folders) {
      const config = await readTransformerConfig(path);
      sources.push({ path, config, folder: await ModelFolder.open(path) });
    }
    return await use(sources);
  } finally {
    for (const { folder } of sources) await folder.close();
  }
}

async function plan(options: MixOptions, sources: readonly Source[]): Promise<MixPlan> {
  const { experts, generalist, names: given } = options;
  const named = expertNames(experts, given);
  if (generalist !== undefined && named.includes("generalist"))
    throw new MixError("MIX_OPTIONS", "two experts are named generalist: rename the other one, by names");
  const names = generalist === undefined ? named : [...named, "generalist"];
  const weights = normalizedWeights(options.weights, sources.length);
  return await planMixture(options, { sources, weights, arrangement: arrangementOf(options, names, sources) });
}

function arrangementOf(
  { arrange = { kind: "whole" } }: MixOptions,
  names: readonly string[],
  sources: readonly Source[],
): ExpertArrangement {
  const width = sources[0]!.config.intermediateSize;
  switch (arrange.kind) {
    case "whole":
      return wholeExperts(names, width);
    case "split":
      return splitExperts(names, width, arrange.chunks);
    case "blend":
      return blendExperts(names, width);
  }
}
