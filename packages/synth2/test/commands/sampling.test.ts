import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { encodePng, WorldDataset } from "../../src/index.js";
import { smallVlm, synth2, trainModels } from "./models.js";

const root = mkdtempSync(join(tmpdir(), "synth2-sampling-"));
afterAll(() => rmSync(root, { recursive: true }));
const at = (name: string) => join(root, name);
const output = at("out.png");

async function generate(generator: string, flags: string): Promise<Buffer> {
  const models = `--generator ${at(generator)} --tokenizer ${at("tokenizer")}`;
  const line = `generate --caption "a red circle" ${models} --output ${output} ${flags}`;
  const { code, printed } = await synth2(line);
  expect(code, printed).toBe(0);
  return readFileSync(output);
}

const size = 16;
const pixelsOf = async (png: Buffer | string) => await sharp(png).raw().toBuffer();

beforeAll(async () => {
  await trainModels(at);
  const { image } = await new WorldDataset({ world: "small", split: "test", length: 1, size }).get(0);
  await writeFile(at("scene.png"), await encodePng(image, size, size));
  const right = Uint8Array.from({ length: size * size * 3 }, (_, i) => (Math.floor(i / 3) % size < 8 ? 0 : 255));
  await writeFile(at("mask.png"), await encodePng(right, size, size));
}, 120_000);

describe("synth2 generate", () => {
  it("takes every schedule, order, filter and kind of guidance, and each changes the picture", async () => {
    const plain = (await generate("masked", "--sampling.steps 4")).toString("base64");
    const others = [
      ...["linear", "square", "arccos"].map((schedule) => `--sampling.schedule ${schedule}`),
      ...["random", "halton"].map((order) => `--sampling.order ${order}`),
      ...["--sampling.temperature 0", "--sampling.top-k 1", "--sampling.top-p 0.01", "--sampling.confidence-noise 0"],
      ...["--sampling.guidance 4", "--sampling.guidance 4 --sampling.guidance-ramp", "--negative green"],
      ...["--sampling.steps 9", "--seed 1"],
    ];
    const drawn = new Map([[plain, "plain"]]);
    for (const flags of others) {
      const guided = flags.startsWith("--negative") ? `${flags} --sampling.guidance 4` : flags;
      const picture = (await generate("masked", `--sampling.steps 4 ${guided}`)).toString("base64");
      // The likeliest code is one, however the others are shut out.
      const greedy = /temperature 0|top-[kp]/.test(flags);
      if (!greedy) expect(drawn.get(picture), flags).toBeUndefined();
      drawn.set(picture, flags);
    }
    expect((await generate("masked", "--sampling.steps 4 --sampling.schedule cosine")).toString("base64")).toBe(plain);
  }, 60_000);

  it("takes steps, η, guidance and free embeddings of a continuous generator, and each changes the picture", async () => {
    const flags = [
      ...["", "--diffusion.eta 1", "--diffusion.guidance 5", "--diffusion.guidance 5 --diffusion.guidance-ramp"],
      ...["--diffusion.snap true", "--diffusion.steps 9", "--diffusion.guidance 5 --negative green", "--seed 1"],
    ];
    const pictures = new Set<string>();
    for (const each of flags) {
      pictures.add(
        (await generate("continuous", `--diffusion.steps 3 --diffusion.snap false ${each}`)).toString("base64"),
      );
    }
    expect(pictures.size).toBe(flags.length);
    expect(pictures).toContain(
      (await generate("continuous", "--diffusion.steps 3 --diffusion.snap false")).toString("base64"),
    );
  }, 60_000);

  it.each([
    ["masked", "sampling"],
    ["continuous", "diffusion"],
  ])("refuses a negative caption without guidance to lead away from it, %s", async (generator, kind) => {
    const models = `--generator ${at(generator)} --tokenizer ${at("tokenizer")} --output ${output}`;
    const line = `generate --caption "a red circle" ${models} --negative green --${kind}.guidance 0`;
    const { code, printed } = await synth2(line);
    expect([code, printed]).toEqual([1, expect.stringContaining("give guidance above 0")]);
  });

  it.each(["masked", "continuous"])(
    "paints into a picture where the mask is white, %s",
    async (generator) => {
      const flags = `--image ${at("scene.png")} --mask ${at("mask.png")} --film ${at("film.png")}`;
      const steps = generator === "masked" ? "--sampling.steps 3" : "--diffusion.steps 3";
      const [one, two] = [
        await pixelsOf(await generate(generator, `${flags} ${steps}`)),
        await pixelsOf(await generate(generator, `${flags} ${steps} --seed 3`)),
      ];
      const half = (pixels: Buffer, right: boolean) =>
        Buffer.from(pixels.filter((_, i) => Math.floor(i / 3) % size >= 8 === right)).toString("base64");
      expect(half(one, false)).toBe(half(await pixelsOf(at("scene.png")), false));
      expect(half(two, false)).toBe(half(one, false));
      expect(half(one, true)).not.toBe(half(two, true));
      const { width, height } = await sharp(at("film.png")).metadata();
      expect([width, height]).toEqual([3 * size, size]);
    },
    60_000,
  );
});

it("trains a vision-language model on embeddings that a continuous generator draws, written or on the fly", async () => {
  await writeFile(at("rows.jsonl"), '{"caption":"a red circle"}\n{"caption":"a blue square"}\n');
  const models = `--tokenizer ${at("tokenizer")} --language-model ${at("language")}`;
  const draw = `--diffusion.steps 2 --diffusion.snap false`;
  const vlm = `vlm --data small-world:paired:16 ${models} ${smallVlm}`;
  const drawing = `--generator ${at("continuous")} --tokenizer ${at("tokenizer")}`;
  const fly = `--on-the-fly.captions ${at("rows.jsonl")} --on-the-fly.generator ${at("continuous")}`;
  for (const line of [
    `synthesize --captions ${at("rows.jsonl")} ${drawing} ${draw} --pixels --output ${at("drawn")}`,
    `${vlm} --synthetic ${at("drawn")} --output ${at("cached")}`,
    `${vlm} ${fly} ${draw.replaceAll("--diff", "--on-the-fly.diff")} --output ${at("live")}`,
  ]) {
    const { code, printed } = await synth2(line);
    expect(code, printed).toBe(0);
  }
  const weights = (name: string) => readFileSync(join(at(name), "model.safetensors"));
  expect(weights("live").equals(weights("cached"))).toBe(true);
  // Other pictures in the same folder are another run.
  rmSync(at("drawn"), { recursive: true });
  const again = `synthesize --captions ${at("rows.jsonl")} ${drawing} ${draw} --seed 1 --output ${at("drawn")}`;
  expect((await synth2(again)).code).toBe(0);
  const resumed = await synth2(`${vlm} --synthetic ${at("drawn")} --output ${at("cached")} --resume --overwrite`);
  expect(resumed.printed).toContain("other settings, data or models");
}, 60_000);

it("goes on with a quickstart only with the settings that it has", async () => {
  await mkdir(at("begun"));
  await writeFile(join(at("begun"), "config.yaml"), "pairs: 3\n");
  const { code, printed } = await synth2(`quickstart --run ${at("begun")} --resume`);
  expect([code, printed]).toEqual([1, expect.stringMatching(/started with pairs 3, not \d+: resume with the same/)]);
});

it("says of captions that they were cut, and of one picture that CIDEr says nothing", async () => {
  const models = `--tokenizer ${at("tokenizer")} --language-model ${at("language")}`;
  const short = `vlm --data small-world:paired:16 ${models} ${smallVlm} --max-text-tokens 2 --output ${at("short")}`;
  expect((await synth2(short)).printed).toMatch(/warning: 8 captions were cut to maxTextTokens, 2/);
  const language = `language-model --data small-world:paired:16 --train.steps 1 --train.batch 2 --model.hidden-size 32`;
  const cut = `${language} --model.layers 1 --model.max-positions 4 --output ${at("cut")}`;
  expect((await synth2(cut)).printed).toMatch(/warning: 80 of 80 captions are longer than maxPositions, 4/);
  const one = await synth2(`evaluate --data small-world:test:1 --vlm ${at("vlm")} ${models} --max-tokens 4`);
  expect(one.printed).toMatch(/warning: CIDEr of one picture is 0/);
  const two = await synth2(`evaluate --data small-world:test:2 --vlm ${at("vlm")} ${models} --max-tokens 4`);
  expect(two.printed).not.toMatch(/warning/);
}, 60_000);
