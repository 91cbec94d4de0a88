import { countField as count } from "@trefoil/core";
import { z } from "zod";

const sizesSchema = z.strictObject({
  width: count(96, "Width of the transformer."),
  layers: count(3, "Blocks of self-attention, cross-attention to the text, and feed-forward."),
  heads: count(4, "Attention heads; an even number of the width is in each."),
  feedForward: count(192, "Width inside the (gated) feed-forward layers."),
  textWidth: count(96, "Width of the text encoder, which trains along; even."),
  textLayers: count(1, "Blocks of the text encoder."),
  textWindow: count(4, "Words on each side that every word is mixed with before they attend to one another."),
  maxTextTokens: count(32, "Longest caption; longer ones are refused.").meta({ unit: "tokens" }),
});

/** The sizes of a generator that a user chooses; grid and codebook come from the image tokenizer, the vocabulary from the text. */
export const generatorSizesSchema = sizesSchema
  .refine(({ width, heads }) => width % (2 * heads) === 0, {
    path: ["heads"],
    error: "width must be an even multiple of heads",
  })
  .refine(({ textWidth }) => textWidth % 2 === 0, { path: ["textWidth"], error: "must be even" });

export type GeneratorSizes = z.infer<typeof generatorSizesSchema>;

/** All sizes; saved in the generator's folder. */
export const generatorArchitectureSchema = sizesSchema.extend({
  textWindow: z
    .number({ error: "an earlier version made it, without this: train the generator anew" })
    .int()
    .positive(),
  gridSize: z.number().int().positive(),
  /** Codes of the image tokenizer. */
  codes: z.number().int().positive(),
  /** Sizes of its codebooks, whose product `codes` is; one book unless given. Each is predicted for itself. */
  books: z.array(z.number().int().positive()).min(1).optional(),
  /** Dimension of an embedding; what the continuous generator draws. */
  codeWidth: z.number().int().positive(),
  vocabulary: z.number().int().positive(),
});

/** The architecture of a generator for the codes of an image tokenizer. */
export const generatorFor = (
  sizes: GeneratorSizes,
  images: { gridSize: number; codebookSize: number; dimension: number; books: readonly number[] },
  vocabulary: number,
): GeneratorArchitecture => ({
  ...sizes,
  gridSize: images.gridSize,
  codes: images.codebookSize,
  codeWidth: images.dimension,
  ...(images.books.length > 1 && { books: [...images.books] }),
  vocabulary,
});

export type GeneratorArchitecture = z.infer<typeof generatorArchitectureSchema>;
