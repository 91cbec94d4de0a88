// Trains a few steps in one way for the process that has started this one, and answers with the memory that it took.
import { Stages } from "../pipeline/index.js";
import { Clock, SyntheticTraining } from "./efficiency.js";
import type { PeakRequest } from "./peak.js";

process.on("disconnect", () => process.exit(1));
process.once("message", async ({ folder, seed, pipeline, way }: PeakRequest) => {
  const stages = new Stages(folder, seed, pipeline);
  const images = await stages.tokenizer();
  const generator = await stages.generator(images);
  const language = await stages.language(generator);
  const captions = await stages.captions("balanced", language);
  const cached = await stages.synthetic("balanced", captions, { generator, images });
  const inputs = { pipeline, seed, steps: 2, images, generator, language, captions, cached };
  using training = await SyntheticTraining.prepare(inputs, [way]);
  for (let step = 0; step < 3; step++) await training.step(way, step, new Clock());
  // maxRSS is in KiB.
  process.send!(process.resourceUsage().maxRSS * 1024, () => process.disconnect());
});
