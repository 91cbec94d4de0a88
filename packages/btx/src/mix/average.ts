import { generationConfigJson, llamaConfigJson, ModelFolderWriter } from "@trefoil/core";
import { checkCompatible } from "./compatibility.js";
import { configDtypes, dtypeFor, normalizedWeights, withSources } from "./mix.js";
import { type FloatDtype, writeAverage } from "./streaming.js";
import { denseTensors } from "./tensors.js";

export interface AverageOptions {
  /** Folders of dense checkpoints, branches of one seed. The first gives the tokenizer. */
  models: readonly string[];
  /** Folder to write. */
  output: string;
  /** What each model counts. Default: all the same. */
  weights?: readonly number[];
  outputDtype?: FloatDtype | "auto";
  overwrite?: boolean;
}

/**
 * The plain average of dense checkpoints, feed-forward layers included: what a mixture must beat (Model Soups, arXiv
 * 2203.05482). Streams as `mix` does. @throws MixError
 */
export async function averageModels(options: AverageOptions): Promise<void> {
  await withSources(options.models, async (sources) => {
    await checkCompatible(sources);
    const { output, overwrite, outputDtype = "auto" } = options;
    const { raw: _, dtype: __, ...config } = sources[0]!.config;
    const weights = normalizedWeights(options.weights, sources.length);
    const declarations = [...denseTensors(config)].map(([name, shape]) => ({
      name,
      shape,
      dtype: dtypeFor(name, sources, outputDtype),
    }));
    const writer = await ModelFolderWriter.create(output, declarations, overwrite === undefined ? {} : { overwrite });
    try {
      for (const { name, dtype } of declarations) await writeAverage(sources, name, weights, { writer, name, dtype });
      await writer.writeFile("config.json", llamaConfigJson(config, configDtypes[declarations[0]!.dtype]));
      await writer.writeFile("generation_config.json", generationConfigJson(config));
      await writer.copyFiles(sources[0]!.path);
      await writer.finish();
    } catch (error) {
      await writer.abort();
      throw error;
    }
  });
}
