import { countField as count } from "@trefoil/core";
import { z } from "zod";
import { SynthError } from "../errors.js";

/** The sizes of an image tokenizer; saved in its folder. */
export const architectureSchema = z.strictObject({
  imageSize: count(54, "Width and height of the images.").meta({ unit: "pixels" }),
  patchSize: count(
    9,
    "Pixels per side that the first layer folds into channels; 1 as in the original VQ-GAN, more is faster.",
  ),
  channels: z
    .array(z.number().int().positive())
    .min(1)
    .default([64])
    .describe("Channels of each level; every level after the first halves width and height."),
  residualBlocks: count(1, "Residual blocks of each level."),
  attention: z.boolean().default(false).describe("Self-attention at the coarsest level; MUSE leaves it out."),
  codesSee: z
    .enum(["picture", "patch"])
    .default("patch")
    .describe(
      "What a code depends on: its own patch alone, so that equal patches have equal codes, which are easier to generate; or the picture around it and its statistics (3 × 3 convolutions, group norms), as in VQ-GAN, for photographs.",
    ),
  groups: count(8, "Groups of the group norms."),
  codes: count(16, "Entries of the codebook."),
  codeWidth: count(8, "Dimension of a code, and of the embeddings that are synthesised."),
  structureCodes: z
    .number()
    .int()
    .nonnegative()
    .default(64)
    .describe(
      "Entries of a second codebook, for grey patterns of patches at unit mean and contrast. The first one then codes the colour range of a patch, and a code is one entry of each, so that new combinations are codes too. 0: one codebook.",
    ),
  normaliseCodes: z.boolean().default(false).describe("Codes of length 1, compared by angle (as LlamaGen)."),
});

export type TokenizerArchitecture = z.infer<typeof architectureSchema>;

/** Sizes of the codebooks: a code of a position is one entry of each. */
export const booksOf = ({ codes, structureCodes }: TokenizerArchitecture): number[] =>
  structureCodes > 0 ? [codes, structureCodes] : [codes];

/** Width and height of the grid of codes. @throws SynthError `SYNTH_OPTIONS` where the sizes do not fit together */
export function gridSizeOf({ imageSize, patchSize, channels, groups }: TokenizerArchitecture): number {
  const grid = imageSize / patchSize / 2 ** (channels.length - 1);
  if (!Number.isInteger(grid) || grid < 1) {
    throw new SynthError(
      "SYNTH_OPTIONS",
      `images of ${imageSize} pixels do not divide into patches of ${patchSize} and ${channels.length - 1} halvings: change imageSize, patchSize or channels`,
    );
  }
  const odd = channels.find((width) => width % groups !== 0);
  if (odd !== undefined) {
    throw new SynthError("SYNTH_OPTIONS", `${groups} groups do not divide ${odd} channels: change groups or channels`);
  }
  return grid;
}
