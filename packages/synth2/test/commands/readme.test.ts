import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { encodePng, WorldDataset } from "../../src/index.js";
import { temporaryFolder } from "../folder.js";

const packageFolder = join(import.meta.dirname, "../..");
const readme = readFileSync(join(packageFolder, "README.md"), "utf8");
const blocks = (language: string) =>
  [...readme.matchAll(new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``, "g"))].map(([, body]) => body!);

const train = "--train.steps 2 --train.batch 4";
/** All stages in seconds; they learn nothing. */
const tiny = {
  ...{ pairs: 16, synthetic: 8, vocabulary: 320 },
  tokenizer: {
    model: { imageSize: 16, patchSize: 2, channels: [16, 16], codes: 32 },
    train: { steps: 2, batch: 4 },
  },
  generator: {
    model: { width: 32, layers: 1, feedForward: 32, maxTextTokens: 48 },
    train: { steps: 2, batch: 4 },
  },
  sampling: { steps: 2 },
  language: { model: { hiddenSize: 32, layers: 1, heads: 2, intermediateSize: 32 }, train: { steps: 300, batch: 8 } },
  vlm: { model: { width: 16, latents: 2, heads: 2, layers: 1 }, train: { steps: 2, batch: 4 } },
};
/** Sizes for a test, for what each command takes. */
const small: Record<string, string> = {
  prepare: "--size 16",
  tokenizer: `${train} --model.image-size 16 --model.patch-size 2 --model.channels 16,16 --model.codes 32`,
  generator: `${train} --model.width 32 --model.layers 1 --model.feed-forward 32 --model.max-text-tokens 48`,
  faithfulness: "--sampling.steps 2",
  generate: "--sampling.steps 2 --diffusion.steps 2",
  "language-model": `${train} --model.hidden-size 32 --model.layers 2 --model.intermediate-size 32`,
  captions: "--min-words 1 --max-words 200 --attempts 100 --batch 4 --count 4 --temperature 2",
  vlm: `${train} --model.width 32 --model.latents 2`,
  caption: "--max-tokens 8",
  evaluate: "--max-tokens 8",
  synthesize: "--sampling.steps 2",
  quickstart: "--config tiny.json --run quick --held-out 8",
  reproduce: "--config tiny.json --seeds 1 --test-pictures 4 --timed-steps 1 --workers 1",
};

function run(folder: string, args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const child = spawn(process.execPath, args, { cwd: folder, stdio: ["ignore", "pipe", "pipe"] });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => (output += text));
  return new Promise((resolve) => child.on("close", (code) => resolve({ code, output })));
}

test("runs every command of the README, in its order, and the library example", async () => {
  const folder = await temporaryFolder();
  const { image } = await new WorldDataset({ split: "paired", length: 1 }).get(0);
  await mkdir(join(folder, "photos"));
  await writeFile(join(folder, "photos/a.png"), await encodePng(image, 64, 64));
  await writeFile(join(folder, "photos/a.txt"), "a photo\n");
  await writeFile(join(folder, "captions.jsonl"), '{"caption":"a red circle"}\n');
  await writeFile(join(folder, "tiny.json"), JSON.stringify(tiny));
  await writeFile(join(folder, "hole.png"), await encodePng(image.fill(255), 64, 64));
  await mkdir(join(folder, "data"));
  await mkdir(join(folder, "models"));
  // `npm start` sets up and runs the quickstart, which is below in small.
  const lines = blocks("sh")
    .flatMap((body) => body.trim().split("\n"))
    .filter((line) => line !== "npm start -- synth2");
  const commands = lines.map((line) => line.split(" ")[1]!);
  expect([...new Set(commands)]).toEqual(Object.keys(small));
  for (const line of lines) {
    const words = [
      ...line
        .replaceAll("paired:3000", "paired:16")
        .replace(/test:\d+/, "test:8")
        .replace("--count 2000 ", "")
        .matchAll(/"([^"]*)"|\S+/g),
    ].map(([word, quoted]) => quoted ?? word);
    const [name, command, ...rest] = words;
    expect(name).toBe("synth2");
    const cli = join(packageFolder, "bin/synth2.js");
    const { code, output } = await run(folder, [cli, command!, ...rest, ...small[command!]!.split(" ")]);
    expect(code, `${line}\n${output}`).toBe(0);
  }
  expect((await readFile(join(folder, "red.png"))).subarray(1, 4).toString()).toBe("PNG");
  const report = await readFile(join(folder, "quick/report.html"), "utf8");
  for (const part of [
    ...[
      "data:image/png;base64,",
      "Reconstructions of held-out pictures",
      "Step by step: ",
      "Captions of test pictures",
    ],
    ...["CIDEr of captions of test pictures", "Diversity of captions", "Codebook usage"],
  ]) {
    expect(report, part).toContain(part);
  }
  expect(await readFile(join(folder, "runs/reproduce/report.html"), "utf8")).toContain("GenPair");
  expect((await readFile(join(folder, "quick/pictures.png"))).subarray(1, 4).toString()).toBe("PNG");
  const library = pathToFileURL(join(packageFolder, "dist/index.js")).href;
  await writeFile(join(folder, "example.mjs"), blocks("ts")[0]!.replace('"@trefoil/synth2"', JSON.stringify(library)));
  const { output } = await run(folder, [join(folder, "example.mjs")]);
  expect(output).toMatch(/^CIDEr-D \d\.\d{3}, BLEU-4 \d\.\d{3}, ROUGE-L \d\.\d{3}\n$/);
}, 300_000);
