import type { Case } from "../measure/side.js";
import { checkpointCases } from "./checkpoint.js";
import { generationCases } from "./generation.js";
import { mergeCases } from "./merge.js";
import { overheadCases } from "./overhead.js";
import { ppoCases } from "./ppo.js";
import { synth2Cases } from "./synth2.js";
import { trainStepCases } from "./train-step.js";
import { visionLanguageCases } from "./vision-language.js";

/** Every recipe case; `quick` is a small one of each family, for a look or a test. */
export const recipeCases = (quick: boolean): Case[] =>
  [
    ...[overheadCases, trainStepCases, generationCases, ppoCases, synth2Cases, visionLanguageCases],
    ...[checkpointCases, mergeCases],
  ].flatMap((make) => make(quick));
