import { z } from "zod";
import { languageSizesSchema } from "../captions/index.js";
import { generatorSizesSchema } from "../generator/index.js";
import type { PipelineSettings } from "../pipeline/index.js";
import { samplingSchema } from "../sampling/index.js";
import { architectureSchema } from "../tokenizer/index.js";
import { vlmSizesSchema } from "../vlm/index.js";
import { WORLDS, type WorldName } from "../world/index.js";
import { count, trainFields } from "./fields.js";
import { generatorLossSchema, generatorRate } from "./generator.js";
import { tokenizerLossSchema } from "./tokenizer.js";

/** Updates of each stage, and pairs. */
export interface PipelineBudget {
  pairs: number;
  synthetic: number;
  steps: Record<"tokenizer" | "generator" | "language" | "vlm", number>;
  /** How the vision-language model begins and learns. Places are learned last: with few updates, settings that learn them bring nothing. */
  vlm: { placeDeviation: number; learningRate: number; warmupSteps: number };
}

/** Fields of a command that runs all stages on the built-in world. @param budget what they are by default */
export const pipelineFields = ({ pairs, synthetic, steps, vlm: { placeDeviation, ...rate } }: PipelineBudget) => ({
  world: z
    .enum(Object.keys(WORLDS) as [WorldName, ...WorldName[]])
    .default("small")
    .describe("small: fewer shapes and colours and at most two objects, which is learned in minutes."),
  pairs: count(pairs, "Pictures with human captions to train on."),
  synthetic: count(synthetic, "Synthetic pairs."),
  vocabulary: count(512, "Tokens of the captions' vocabulary, at most.").meta({ unit: "tokens" }),
  tokenizer: z
    .strictObject({
      model: architectureSchema.prefault({}),
      loss: tokenizerLossSchema.prefault({}),
      train: trainFields({ steps: steps.tokenizer, learningRate: 4e-3, batch: 32 }).prefault({}),
    })
    .prefault({}),
  generator: z
    .strictObject({
      model: generatorSizesSchema.prefault({}),
      loss: generatorLossSchema.prefault({}),
      train: trainFields({ steps: steps.generator, ...generatorRate, batch: 32 }).prefault({}),
    })
    .prefault({}),
  sampling: samplingSchema.prefault({}),
  language: z
    .strictObject({
      model: languageSizesSchema.prefault({ hiddenSize: 64, layers: 2, heads: 4, intermediateSize: 176 }),
      train: trainFields({ steps: steps.language, learningRate: 5e-3, batch: 32 }).prefault({}),
    })
    .prefault({}),
  vlm: z
    .strictObject({
      model: vlmSizesSchema.prefault({ width: 64, placeDeviation }),
      train: trainFields({ steps: steps.vlm, ...rate, batch: 32 }).prefault({}),
    })
    .prefault({}),
});

/** What is left of a command's configuration for the stages. */
export const pipelineSettings = (config: PipelineSettings): PipelineSettings => {
  const { world, pairs, synthetic, vocabulary, tokenizer, generator, sampling, language, vlm } = config;
  return { world, pairs, synthetic, vocabulary, tokenizer, generator, sampling, language, vlm };
};
