import { generationConfigJson, llamaConfigJson, ModelFolderWriter } from "@trefoil/core";
import { ChunkBuffers, type FloatDtype } from "./chunks.js";
import { checkCompatible } from "./compatibility.js";
import { withSources } from "./mix.js";
import { configDtypes, dtypeFor, normalizedWeights } from "./plan.js";
import { TensorSink } from "./sink.js";
import { writeAverage } from "./streaming.js";
import { denseTensors } from "./tensors.js";
import type { DivergenceReport } from "./write.js";

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
 * The average of dense checkpoints, feed-forward layers included: what a mixture must beat (Model Soups, arXiv
 * 2203.05482; the parameter average of Branch-Train-Merge, arXiv 2208.03306). Streams and reads back as `mix` does.
 * Returns how far each checkpoint is from it. @throws MixError
 */
export async function averageModels(options: AverageOptions): Promise<DivergenceReport> {
  return await withSources(options.models, async (sources) => {
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
      const sink = new TensorSink(writer);
      const stream = { sources, weights, sink, buffers: new ChunkBuffers() };
      const divergence: Record<string, readonly number[]> = {};
      for (const { name, dtype } of declarations) divergence[name] = await writeAverage(stream, name, { name, dtype });
      await writer.writeFile("config.json", llamaConfigJson(config, configDtypes[declarations[0]!.dtype]));
      await writer.writeFile("generation_config.json", generationConfigJson(config));
      await writer.copyFiles(sources[0]!.path);
      await writer.finish({ verify: (folder) => sink.verify(folder) });
      return divergence;
    } catch (error) {
      await writer.abort();
      throw error;
    }
  });
}
