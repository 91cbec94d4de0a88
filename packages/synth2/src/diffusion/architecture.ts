import { z } from "zod";
import { type GeneratorArchitecture, generatorArchitectureSchema } from "../generator/architecture.js";

/** How a continuous generator is trained. */
export const diffusionSchema = z.strictObject({
  target: z
    .enum(["v", "x0"])
    .default("v")
    .describe("What is predicted: the clean embedding, or the velocity between it and the noise (arXiv 2202.00512)."),
  timesteps: z.number().int().min(2).max(100_000).default(1000).describe("Levels of noise, along a cosine schedule."),
  dropCondition: z.number().min(0).lt(1).default(0.1).describe("Share of captions that are dropped, for guidance."),
});

export type DiffusionSettings = z.infer<typeof diffusionSchema>;

/** All sizes; saved in the generator's folder. */
export const denoiserArchitectureSchema = generatorArchitectureSchema
  .omit({ books: true })
  .extend({ target: z.enum(["v", "x0"]), timesteps: z.number().int().min(2) });

export type DenoiserArchitecture = z.infer<typeof denoiserArchitectureSchema>;

/** The continuous generator of a masked one's sizes. */
export const denoiserFor = (
  { books: _, ...sizes }: GeneratorArchitecture,
  { target, timesteps }: Pick<DiffusionSettings, "target" | "timesteps">,
): DenoiserArchitecture => ({ ...sizes, target, timesteps });
