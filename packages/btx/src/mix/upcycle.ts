import { copiedExperts } from "./arrangement.js";
import { MixError } from "./errors.js";
import { withSources } from "./mix.js";
import { type MixPlan, type MixtureOptions, planMixture } from "./plan.js";
import { describeRouter } from "./router.js";
import { type MixResult, writeMixture } from "./write.js";

export interface UpcycleOptions extends MixtureOptions {
  /** Folder of the dense checkpoint. */
  model: string;
  /** Copies of its feed-forward layers. */
  experts: number;
  /** Layers that become mixtures; the others stay dense, which transformers' Mixtral cannot hold. Default: all. */
  layers?: readonly number[];
  /** Standard deviation of noise on each copy, as a share of the root mean square of its matrix. Default 0: exact copies. */
  noise?: number;
  /** Of the noise. Default 0. */
  noiseSeed?: number;
}

/** Says what `upcycle` would write, without reading weights. @throws MixError */
export async function planUpcycle(options: UpcycleOptions): Promise<MixPlan> {
  return await withSources([options.model], ([source]) => planMixture(options, inputOf(options, source!)), 1);
}

/**
 * Sparse upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055): the experts are copies of one checkpoint's feed-forward layers.
 * Without noise the mixture computes what the checkpoint does, whatever its router.
 * @throws MixError
 */
export async function upcycle(options: UpcycleOptions): Promise<MixResult> {
  const { model, noise = 0, noiseSeed = 0 } = options;
  return await withSources(
    [model],
    async ([source]) => {
      const plan = await planMixture(options, inputOf(options, source!));
      const { router = { kind: "random" } } = options;
      const description = {
        arrange: { kind: "upcycle", noise, noiseSeed },
        experts: [{ folder: model, weight: 1 }],
        router: describeRouter(router),
      };
      const added = noise > 0 && { noise: { share: noise, seed: noiseSeed * 1_000_003 } };
      return await writeMixture([source!], plan, { options, description, ...added });
    },
    1,
  );
}

type Source = Parameters<Parameters<typeof withSources>[1]>[0][number];

function inputOf({ experts, layers, noise = 0 }: UpcycleOptions, source: Source) {
  const { intermediateSize, layers: depth } = source.config;
  if (!(noise >= 0 && Number.isFinite(noise))) throw new MixError("MIX_OPTIONS", `the noise is ${noise}: 0 or more`);
  const moeLayers = layers && [...new Set(layers)].sort((a, b) => a - b);
  const wrong = moeLayers?.find((layer) => !(Number.isInteger(layer) && layer >= 0 && layer < depth));
  if (wrong !== undefined)
    throw new MixError("MIX_OPTIONS", `there is no layer ${wrong}: layers are 0 to ${depth - 1}`);
  if (moeLayers?.length === 0) throw new MixError("MIX_OPTIONS", "no layer is to become a mixture: name at least one");
  return {
    sources: [source],
    weights: [1],
    arrangement: copiedExperts(experts, intermediateSize),
    ...(moeLayers && { moeLayers }),
  };
}
