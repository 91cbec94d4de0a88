import { join } from "node:path";
import { defaultDevice } from "@trefoil/core";
import { expect, it } from "vitest";
import { openGenerator, synthesize, VqImageTokenizer } from "../../src/index.js";
import { samplingSchema } from "../../src/sampling/index.js";
import { temporaryFolder } from "../folder.js";
import { trainSmallGenerator, trainSmallTokenizer } from "../pipeline/small.js";

it("takes the same memory however many captions there are", async () => {
  const folder = await temporaryFolder();
  const at = (name: string) => join(folder, name);
  await trainSmallTokenizer(at("tokenizer"), 2);
  await trainSmallGenerator(at("tokenizer"), at("generator"), 2);
  using tokenizer = await VqImageTokenizer.open(at("tokenizer"));
  const generator = await openGenerator(at("generator"));
  const [count, shardSize] = [6400, 64];
  const live: number[] = [];
  const resident: number[] = [];
  async function* captions() {
    for (let i = 0; i < count; i++) {
      if (i % shardSize === 0) {
        live.push(defaultDevice().memory().live);
        resident.push(process.memoryUsage().rss);
      }
      yield { id: String(i), caption: `${i} red circles` };
    }
  }
  const { pictures, shards } = await synthesize({
    ...{ generator, tokenizer, captions: captions(), output: at("synthetic"), shardSize, seed: 0, pixels: true },
    sampling: samplingSchema.parse({ steps: 1, guidance: 0 }),
  });
  expect([pictures, shards]).toEqual([count, count / shardSize]);
  generator.model.dispose();
  const most = (values: number[]) => Math.max(...values);
  // Of all pictures together: 16 positions of 4 numbers and a code, and 768 bytes of pixels, 7 MB. Garbage comes and goes in between.
  expect(most(live.slice(50))).toBeLessThanOrEqual(most(live.slice(5, 50)) + 2 ** 20);
  expect(most(resident.slice(50))).toBeLessThan(most(resident.slice(5, 50)) + 2 ** 25);
}, 60_000);
