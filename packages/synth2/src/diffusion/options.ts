import { z } from "zod";

/** How a continuous generator draws (DDIM, arXiv 2010.02502). */
export const diffusionSamplingSchema = z.strictObject({
  steps: z.number().int().positive().max(4096).default(24).describe("Denoising steps.").meta({ unit: "steps" }),
  eta: z.number().min(0).max(1).default(0).describe("Fresh noise in every step: 0 none, 1 as much as DDPM."),
  guidance: z
    .number()
    .min(0)
    .default(1)
    .describe("w of classifier-free guidance: (1 + w) conditional - w unconditional; 0: none."),
  guidanceRamp: z.boolean().default(false).describe("Guidance grows linearly from 0 at the first step."),
  snap: z
    .boolean()
    .default(true)
    .describe("Replace every drawn embedding by the nearest of the codebook, where those of real pictures lie."),
});

export type DiffusionSamplingOptions = z.infer<typeof diffusionSamplingSchema>;
