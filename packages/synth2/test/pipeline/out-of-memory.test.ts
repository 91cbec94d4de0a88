import { existsSync } from "node:fs";
import { join } from "node:path";
import { expect, it, vi } from "vitest";
import {
  denoiserFor,
  encodePairs,
  generatorFor,
  LanguageModel,
  trainDenoiser,
  trainVlm,
  VqImageTokenizer,
} from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { plainPictures, trainSmallLanguage, vlmSizes } from "../vlm/small.js";
import { generatorSizes, smallSettings, smallText, trainSmallGenerator, trainSmallTokenizer, world } from "./small.js";

// Enough for the small models' own training.
vi.spyOn(process, "constrainedMemory").mockReturnValue(32e6);

it("a step that no memory holds is refused before the run begins, by every trainer", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await trainSmallTokenizer(at("tokenizer"), 1);
  await trainSmallLanguage(at("language"), 1);
  using images = await VqImageTokenizer.open(at("tokenizer"));
  using language = await LanguageModel.open(at("language"));
  const text = await smallText();
  const pairs = await encodePairs(world, images, text, generatorSizes.maxTextTokens);
  const architecture = denoiserFor(generatorFor(generatorSizes, images, text.vocabSize), {
    target: "v",
    timesteps: 100,
  });
  const large = { settings: smallSettings(10, { batch: 8192 }) };
  const data = { real: plainPictures(), syntheticShare: 0 };
  const trainers: Record<string, (output: string) => Promise<unknown>> = {
    tokenizer: (output) => trainSmallTokenizer(output, 1, large),
    generator: (output) => trainSmallGenerator(at("tokenizer"), output, 1, large),
    denoiser: (output) =>
      trainDenoiser({ pairs, text, images, dropCondition: 0, architecture, ...large, output, run: `${output}-run` }),
    language: (output) => trainSmallLanguage(output, 1, large),
    vlm: (output) =>
      trainVlm({
        ...{ data, dataName: "plain", language, sizes: vlmSizes, maxTextTokens: 16, ...large },
        ...{ output, run: `${output}-run` },
      }),
  };
  for (const [name, train] of Object.entries(trainers)) {
    await expect(train(at(`${name}-large`)), name).rejects.toMatchObject({
      code: "TREFOIL_OUT_OF_MEMORY",
      message: expect.stringContaining("use a smaller batch"),
    });
    expect([name, existsSync(at(`${name}-large-run`))]).toEqual([name, false]);
  }
});
