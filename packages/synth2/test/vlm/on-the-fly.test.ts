import { join } from "node:path";
import { expect, it } from "vitest";
import {
  CodedDataset,
  LanguageModel,
  OnTheFlyDataset,
  openGenerator,
  SyntheticDataset,
  synthesize,
  trainVlm,
  VqImageTokenizer,
} from "../../src/index.js";
import { samplingSchema } from "../../src/sampling/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallGenerator, trainSmallTokenizer, world } from "../pipeline/small.js";
import { settings, trainSmallLanguage, vlmSizes } from "./small.js";

it("trains on pairs drawn on the fly as on the same pairs from a synthesis, bit for bit", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await trainSmallTokenizer(at("tokenizer"), 10);
  await trainSmallGenerator(at("tokenizer"), at("generator"), 4);
  await trainSmallLanguage(at("language"), 3);
  using images = await VqImageTokenizer.open(at("tokenizer"));
  using language = await LanguageModel.open(at("language"));
  const generator = await openGenerator(at("generator"));
  const captions = Array.from({ length: 7 }, (_, i) => ({
    id: String(i),
    caption: `a red circle${" and so on".repeat(i)}`,
  }));
  const sampling = samplingSchema.parse({ steps: 3 });
  const drawn = { generator, sampling, seed: 5 };
  await synthesize({ ...drawn, captions, tokenizer: images, output: at("synthetic"), shardSize: 3 });
  await using cached = await SyntheticDataset.open(at("synthetic"));
  const live = await OnTheFlyDataset.open({ ...drawn, captions, images });
  // One caption is longer than the generator reads.
  expect([live.length, live.skipped]).toEqual([cached.length, 7 - cached.length]);
  expect(live.skipped).toBeGreaterThan(0);
  expect(await live.get(2)).toEqual(await cached.get(2));
  await expect(live.get(7)).rejects.toThrow(RangeError);
  const real = await CodedDataset.encode(world, images);
  const train = async (name: string, synthetic: SyntheticDataset | OnTheFlyDataset) =>
    await trainVlm({
      ...{ data: { real, synthetic, syntheticShare: 0.5 }, dataName: name, language, sizes: vlmSizes },
      ...{ maxTextTokens: 40, settings: settings(4), output: at(name), run: at(`${name}-run`) },
    });
  expect((await train("live", live)).hash).toBe((await train("cached", cached)).hash);
  generator.model.dispose();
}, 60_000);
