import { rm } from "node:fs/promises";
import { join } from "node:path";
import { defined, requireFreeOutput, temporaryFolderFor } from "@trefoil/core";
import { MixError, type MixOptions, type MixResult, mix, ridgeDefaults } from "../mix/index.js";
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
  const { output, overwrite = false } = options;
  requireFreeOutput({ output, overwrite });
  const folder = await temporaryFolderFor(output);
  try {
    const unrouted = join(folder, "unrouted");
    await mix({ ...options, output: unrouted, overwrite: false });
    let layers: Float32Array[];
    {
      using opened = await OpenModel.open(unrouted);
      layers = await setRidgeRouters(opened.mixture, texts, ridge);
    }
    return await mix({ ...options, router: { kind: "given", layers, description: describe(texts, ridge) } });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** What makes the routers again, from the same texts. */
function describe(texts: readonly LabelledText[], ridge: RidgeRouterOptions): object {
  const { lambda, sharpness } = { ...ridgeDefaults, ...defined({ lambda: ridge.lambda, sharpness: ridge.sharpness }) };
  const { tokens, batch, sequence } = ridge;
  return { kind: "ridge", lambda, sharpness, tokens, batch, sequence, experts: texts.map(({ expert }) => expert) };
}
