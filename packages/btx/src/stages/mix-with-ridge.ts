import { rm } from "node:fs/promises";
import { MixError, type MixOptions, type MixResult, mix } from "../mix/index.js";
import { OpenModel } from "./model.js";
import { type LabelledText, type RidgeRouterOptions, setRidgeRouters } from "./ridge-router.js";

/**
 * Mixes with routers by ridge regression. The router's input depends on the mixture, so it is mixed once to measure and
 * once more with the routers found. @throws MixError
 */
export async function mixWithRidgeRouter(
  options: MixOptions,
  texts: readonly LabelledText[],
  ridge: RidgeRouterOptions,
): Promise<MixResult> {
  if (options.arrange && options.arrange.kind !== "whole")
    throw new MixError(
      "MIX_OPTIONS",
      `${options.arrange.kind} experts have no domain of their own: use a random router`,
    );
  const unrouted = `${options.output}.unrouted`;
  try {
    await mix({ ...options, output: unrouted, overwrite: true });
    let layers: Float32Array[];
    {
      using opened = await OpenModel.open(unrouted);
      layers = await setRidgeRouters(opened.mixture, texts, ridge);
    }
    return await mix({ ...options, router: { kind: "given", layers } });
  } finally {
    await rm(unrouted, { recursive: true, force: true });
  }
}
