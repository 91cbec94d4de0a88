import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { hugePng } from "../data/huge.js";
import { tar } from "../data/tars.js";
import { smallVlm, synth2, trainModels } from "./models.js";

const root = mkdtempSync(join(tmpdir(), "synth2-bad-"));
afterAll(() => rmSync(root, { recursive: true }));
const at = (name: string) => join(root, name);

const models = `--tokenizer ${at("tokenizer")} --language-model ${at("language")}`;
const look = `--vlm ${at("vlm")} ${models} --max-tokens 4`;
const drawing = `--generator ${at("masked")} --tokenizer ${at("tokenizer")} --sampling.steps 2`;
const noising = `--generator ${at("continuous")} --tokenizer ${at("tokenizer")} --diffusion.steps 2`;
const foreign = (line: string) => line.replace(at("tokenizer"), at("other-tokenizer"));
const vlm = (more: string) => `vlm --data small-world:paired:16 ${smallVlm} ${more} --output ${at("unwanted")}`;
const synthesis = (captions: string, how: string, output: string) =>
  `synthesize --captions ${at(captions)} ${how} --output ${at(output)}`;

beforeAll(async () => {
  await trainModels(at);
  const plain = () => sharp({ create: { width: 20, height: 10, channels: 3, background: { r: 250, g: 250, b: 250 } } });
  writeFileSync(at("good.png"), await plain().png().toBuffer());
  writeFileSync(at("cmyk.jpg"), await plain().toColourspace("cmyk").jpeg().toBuffer());
  writeFileSync(at("lie.png"), "GIF89a is not what its name says");
  writeFileSync(at("nothing.png"), "");
  writeFileSync(at("zero.png"), hugePng(0, 10));
  writeFileSync(at("huge.png"), hugePng(30_000, 30_000));
  writeFileSync(at("empty.tar"), tar());
  writeFileSync(at("rows.jsonl"), '{"caption":"a red circle"}\n{"caption":"a blue square"}\n');
  writeFileSync(at("none.jsonl"), "\n");
  writeFileSync(at("broken.jsonl"), '{"caption":"a red circle"}\n{"text":"a blue square"}\n');
  writeFileSync(at("long.jsonl"), `${JSON.stringify({ caption: "a ".repeat(5_000_000) })}\n`);
  writeFileSync(at("long.json"), JSON.stringify({ caption: "a ".repeat(5_000_000) }));
  mkdirSync(at("folder"));
  cpSync(at("masked"), at("swapped"), { recursive: true });
  cpSync(join(at("other-language"), "tokenizer.json"), join(at("swapped"), "tokenizer.json"));
  cpSync(at("masked"), at("changed"), { recursive: true });
  const weights = readFileSync(join(at("changed"), "model.safetensors"));
  weights[weights.length - 2]! ^= 1;
  writeFileSync(join(at("changed"), "model.safetensors"), weights);
  expect((await synth2(synthesis("rows.jsonl", drawing, "synthetic"))).code).toBe(0);
  mkdirSync(at("photos"));
  writeFileSync(join(at("photos"), "a.png"), readFileSync(at("good.png")));
  writeFileSync(join(at("photos"), "a.txt"), "a white field\n");
  expect((await synth2(`prepare --source ${at("photos")} --size 8 --output ${at("prepared")}`)).code).toBe(0);
}, 120_000);

// What is given, the code of the error, and what it says to do.
const cases: Record<string, [line: string, code: string, advice: RegExp][]> = {
  caption: [
    ...(["lie", "nothing", "zero", "huge", "missing"] as const).map((name): [string, string, RegExp] => [
      `caption --image ${at("good.png")},${at(name)}.png ${look}`,
      "SYNTH_IMAGE",
      new RegExp(`${name}\\.png: .*give a PNG`, "s"),
    ]),
    [`caption --image ${at("folder")} ${look}`, "SYNTH_IMAGE", /folder: .*give a PNG/s],
    [
      `caption --image ${at("good.png")} ${foreign(look)}`,
      "SYNTH_TOKENIZER_MISMATCH",
      /belongs to the image tokenizer/,
    ],
    [
      `caption --image ${at("good.png")} ${look.replace(at("language"), at("other-language"))}`,
      "SYNTH_VOCABULARY_MISMATCH",
      /give its own language model/,
    ],
    [
      `caption --image ${at("good.png")} ${look.replace(at("vlm"), at("masked"))}`,
      "SYNTH_MODEL",
      /not a "trefoil-vision/,
    ],
  ],
  evaluate: [
    [
      `evaluate --data small-world:test:4 ${look} --max-tokens 64`,
      "SYNTH_OPTIONS",
      /maxTokens is 64, but behind its beginning the language model reads 63/,
    ],
    [`evaluate --data ${at("empty.tar")} ${look}`, "SYNTH_DATA", /synth2 prepare/],
    [`evaluate --data ${at("missing")} ${look}`, "SYNTH_DATA", /synth2 prepare/],
    [`evaluate --data ${at("prepared")} ${look}`, "SYNTH_DATA", /prepare .*--size 16/s],
    [`evaluate --data small-world:test:4 ${foreign(look)}`, "SYNTH_TOKENIZER_MISMATCH", /belongs to/],
  ],
  prepare: [[`prepare --source ${at("empty.tar")} --output ${at("unwanted")}`, "SYNTH_DATA", /shard is empty/]],
  synthesize: [
    [synthesis("missing.jsonl", drawing, "unwanted"), "SYNTH_DATA", /give a .jsonl/],
    [synthesis("broken.jsonl", drawing, "unwanted"), "SYNTH_DATA", /line 2.*write/s],
    [synthesis("none.jsonl", drawing, "unwanted"), "SYNTH_DATA", /no caption/],
    [synthesis("long.jsonl", drawing, "unwanted"), "SYNTH_DATA", /no caption/],
    [synthesis("long.jsonl", noising, "unwanted"), "SYNTH_DATA", /no caption/],
    [synthesis("rows.jsonl", foreign(drawing), "unwanted"), "SYNTH_TOKENIZER_MISMATCH", /belongs to/],
    [synthesis("rows.jsonl", foreign(noising), "unwanted"), "SYNTH_TOKENIZER_MISMATCH", /belongs to/],
    [synthesis("rows.jsonl", drawing.replace(at("masked"), at("vlm")), "unwanted"), "SYNTH_MODEL", /not a "trefoil-/],
    [
      synthesis("rows.jsonl", drawing.replace(at("masked"), at("folder")), "unwanted"),
      "SYNTH_MODEL",
      /give the folder/,
    ],
    [
      synthesis("rows.jsonl", drawing.replace(at("masked"), at("swapped")), "unwanted"),
      "SYNTH_VOCABULARY_MISMATCH",
      /put that one back/,
    ],
    [synthesis("rows.jsonl", drawing.replace(at("masked"), at("changed")), "unwanted"), "SYNTH_MODEL", /was changed/],
    [synthesis("rows.jsonl", `${drawing} --seed 1`, "synthetic"), "TREFOIL_RESUME", /name another folder/],
  ],
  vlm: [
    [vlm(`${foreign(models)} --synthetic ${at("synthetic")}`), "SYNTH_TOKENIZER_MISMATCH", /codes mean something else/],
    [vlm(`${models} --synthetic ${at("masked")}`), "SYNTH_STORE", /give a folder that synthesize wrote/],
    [
      vlm(`${foreign(models)} --on-the-fly.captions ${at("rows.jsonl")} --on-the-fly.generator ${at("masked")}`),
      "SYNTH_TOKENIZER_MISMATCH",
      /codes mean something else/,
    ],
    [
      vlm(`${models} --on-the-fly.captions ${at("long.jsonl")} --on-the-fly.generator ${at("continuous")}`),
      "SYNTH_DATA",
      /no caption that the generator reads/,
    ],
    [vlm(`${models} --data ${at("empty.tar")}`), "SYNTH_DATA", /synth2 prepare/],
    [vlm(`${models} --data ${at("prepared")}`), "SYNTH_DATA", /prepare .*--size 16/s],
    [
      vlm(`${models} --max-text-tokens 1000`),
      "SYNTH_OPTIONS",
      /maxTextTokens is 1000, but the language model .* reads 64 at most/,
    ],
  ],
  captions: [
    [
      `captions --language-model ${at("language")} --prompt "a picture:" --output ${at("unwanted")}`,
      "SYNTH_OPTIONS",
      /prompt has no \{class\}/,
    ],
    [
      `captions --language-model ${at("language")} --max-tokens 64 --output ${at("unwanted")}`,
      "SYNTH_CAPTIONER",
      /has 64: lower maxTokens, 64/,
    ],
  ],
  generate: [
    [`generate --config ${at("long.json")} ${drawing} --output ${at("x.png")}`, "SYNTH_DATA", /shorten it/],
    [`generate --config ${at("long.json")} ${noising} --output ${at("x.png")}`, "SYNTH_DATA", /shorten it/],
    [`generate --caption red ${foreign(drawing)} --output ${at("x.png")}`, "SYNTH_TOKENIZER_MISMATCH", /belongs to/],
    [
      `generate --caption red ${drawing} --sampling.top-k 999 --output ${at("x.png")}`,
      "SYNTH_OPTIONS",
      /more than the/,
    ],
    [
      `generate --caption red ${noising} --diffusion.steps 2000 --output ${at("x.png")}`,
      "SYNTH_OPTIONS",
      /1000 levels/,
    ],
    [`generate --caption red --image ${at("good.png")} ${drawing} --output ${at("x.png")}`, "SYNTH_OPTIONS", /--mask/],
    [
      `generate --caption red --image ${at("good.png")} --mask ${at("lie.png")} ${drawing} --output ${at("x.png")}`,
      "SYNTH_IMAGE",
      /lie.png: .*give a PNG/s,
    ],
  ],
};

describe.each(Object.entries(cases))("%s", (_, lines) => {
  it.each(lines.map((each) => [each[0].replaceAll(`${root}/`, ""), ...each] as const))(
    "%s",
    async (_, line, code, advice) => {
      const result = await synth2(line);
      expect(result.printed).toContain(code);
      expect(result.printed.replace(/\s+/g, " ")).toMatch(advice);
      expect(result.code).toBe(1);
      expect(existsSync(at("x.png"))).toBe(false);
      expect(existsSync(at("unwanted"))).toBe(false);
      rmSync(at("unwanted-run"), { recursive: true, force: true });
    },
    20_000,
  );
});

it("sizes of a generator that do not fit together are refused by their names", async () => {
  const line = `generator --data small-world:paired:4 --tokenizer ${at("tokenizer")} --output ${at("unwanted")}`;
  const odd = await synth2(`${line} --model.width 36 --model.heads 4 --model.text-width 9`);
  expect(odd.code).toBe(2);
  expect(odd.printed).toMatch(/model.heads: width must be an even multiple of heads.*model.textWidth: must be even/s);
  const sizes = "--model.width 8 --model.heads 1 --model.layers 1 --model.feed-forward 8 --vocabulary 320";
  const fits = await synth2(`${line} ${sizes} --model.text-width 18 --model.max-text-tokens 64 --train.steps 1`);
  expect(fits.code, fits.printed).toBe(0);
}, 20_000);

it("captions a picture in CMYK, and skips a caption of 10 MB beside others", async () => {
  const { code, printed } = await synth2(`caption --image ${at("cmyk.jpg")} ${look}`);
  expect(code, printed).toBe(0);
  expect(printed).toContain("cmyk.jpg: ");
  writeFileSync(at("mixed.jsonl"), `${readFileSync(at("long.jsonl"), "utf8")}{"caption":"a red circle"}\n`);
  const mixed = await synth2(synthesis("mixed.jsonl", noising, "mixed"));
  expect(mixed.code, mixed.printed).toBe(0);
  expect(mixed.printed).toMatch(/1 embeddings.*1 captions were too long/s);
});
