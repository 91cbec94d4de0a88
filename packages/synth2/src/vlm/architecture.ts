import { countField as count } from "@trefoil/core";
import { z } from "zod";

/** The sizes of the trained part of a vision-language model that a user chooses. */
export const vlmSizesSchema = z.strictObject({
  patch: count(1, "Codes of a patch along each side; a patch is read as one. Must divide the grid of codes."),
  pictureLayers: z
    .number()
    .int()
    .nonnegative()
    .default(1)
    .describe("Layers of attention among patches: codes alone say little about shapes and places."),
  placeDeviation: z
    .number()
    .positive()
    .default(0.9)
    .describe(
      "Initial standard deviation of the embeddings of rows and columns; content has about 0.6. At 0.3 places are learned later than all else; at 1.5 everything is learned late.",
    ),
  latents: count(16, "Latents of the resampler: what the language model reads of a picture."),
  width: count(128, "Width of the resampler."),
  layers: count(2, "Layers of the resampler."),
  heads: count(4, "Attention heads, of the resampler and of the gated blocks."),
  everyLayers: count(1, "Layers of the language model from one gated block to the next."),
});

export type VlmSizes = z.infer<typeof vlmSizesSchema>;

/** All sizes; saved in the model's folder. Pictures come from the image tokenizer, text from the language model. */
export const vlmArchitectureSchema = vlmSizesSchema
  .extend({
    gridSize: z.number().int().positive(),
    /** Dimension of an embedding of the image tokenizer. */
    codeWidth: z.number().int().positive(),
    /** Width and layers of the language model. */
    textWidth: z.number().int().positive(),
    textLayers: z.number().int().positive(),
  })
  .refine(({ gridSize, patch }) => gridSize % patch === 0, {
    message: "patch must divide the width of the grid of codes",
  })
  .refine(({ width, textWidth, heads }) => width % heads === 0 && textWidth % heads === 0, {
    message: "heads must divide the width of the resampler and that of the language model",
  });

export type VlmArchitecture = z.infer<typeof vlmArchitectureSchema>;
