import { z } from "zod";

/** How codes are decoded in parallel (MaskGIT, arXiv 2202.04200; MUSE, arXiv 2301.00704; Halton, arXiv 2503.17076). */
export const samplingSchema = z.strictObject({
  steps: z.number().int().positive().max(4096).default(36).describe("Steps of decoding.").meta({ unit: "steps" }),
  order: z
    .enum(["confidence", "random", "halton"])
    .default("confidence")
    .describe("What is kept first: the most confident codes, any, or those of the Halton sequence."),
  schedule: z
    .enum(["cosine", "linear", "square", "arccos"])
    .optional()
    .describe("How the share of masked codes falls. Default: cosine, arccos for the Halton order."),
  // Far above, entries of the other codebook, which have no chance, would get one.
  temperature: z
    .number()
    .min(0)
    .max(100)
    .default(0.5)
    .describe("Logits are divided by this; 0 takes the most likely code."),
  confidenceNoise: z
    .number()
    .min(0)
    .default(3)
    .describe("Gumbel noise on the confidence at the first step, falling linearly to 0 (MaskGIT: 4.5)."),
  topK: z.number().int().min(0).default(0).describe("Keep the k most likely codes; 0 keeps all."),
  topP: z.number().gt(0).max(1).default(1).describe("Keep the smallest set of codes that reaches this probability."),
  guidance: z
    .number()
    .min(0)
    .default(0.5)
    .describe(
      "w of classifier-free guidance: (1 + w) conditional - w unconditional. 0: none; other tools write 1 + w.",
    ),
  guidanceRamp: z
    .boolean()
    .default(false)
    .describe("Guidance grows linearly from 0 at the first step, as in MUSE; else it is constant."),
  haltonRoll: z
    .boolean()
    .default(true)
    .describe("In Halton order, every picture starts the sequence at a different place."),
});

export type SamplingOptions = z.infer<typeof samplingSchema>;
