import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { InitialValues, saveSafetensors, trainBpe } from "@trefoil/core";
import {
  Captioner,
  captionTargets,
  type EmbeddedDataset,
  LanguageModel,
  type LanguageSizes,
  saveVlm,
  type TrainingSettings,
  trainLanguageModel,
  VlmTrainer,
  vlmArchitecture,
  vlmSizesSchema,
  WorldDataset,
} from "@trefoil/synth2";
import type { Case, Opened, Timing } from "../measure/side.js";

interface VlmTask {
  name: string;
  language: LanguageSizes;
  /** Codes along each side of a picture. */
  gridSize: number;
  batch: number;
  width: number;
  latents: number;
  heads: number;
  layers: number;
}

/** Tokens of a caption, end of text included. */
const sequence = 32;
const codeWidth = 8;

const settings = (batch: number, steps: number): TrainingSettings => ({
  ...{ steps, batch, learningRate: 1e-3, warmupSteps: 0, weightDecay: 0, clipNorm: 1, seed: 0 },
  ...{ checkpointEvery: steps, keepCheckpoints: 1 },
});

interface Prepared {
  language: LanguageModel;
  data: EmbeddedDataset;
  pictures: Float32Array;
  trainer: VlmTrainer;
}

/** A language model, what reads pictures, and one batch: on disk too, for the peer to start from the same. */
async function prepare(task: VlmTask, folder: string): Promise<Prepared> {
  const { gridSize, batch } = task;
  const world = new WorldDataset({ split: "paired", length: batch });
  const captions: string[] = [];
  for (let i = 0; i < batch; i++) captions.push((await world.get(i)).captions[0]!);
  await trainLanguageModel({
    captions: captions.map((caption) => ({ caption, classes: [] })),
    dataName: "one batch",
    tokenizer: await trainBpe(captions, { vocabSize: 512 }),
    sizes: task.language,
    settings: settings(batch, 1),
    output: join(folder, "language"),
    run: join(folder, "language-run"),
  });
  const language = await LanguageModel.open(join(folder, "language"));
  const positions = gridSize ** 2;
  const pictures = new InitialValues(1).normal([batch, positions, codeWidth], 0.3);
  const size = positions * codeWidth;
  const data: EmbeddedDataset = {
    ...{ length: batch, positions, dimension: codeWidth, tokenizerHash: "some" },
    get: (index) => ({
      id: String(index),
      captions: [captions[index]!],
      embedding: pictures.subarray(index * size, (index + 1) * size),
    }),
  };
  const { width, latents, heads, layers } = task;
  const architecture = vlmArchitecture(vlmSizesSchema.parse({ width, latents, heads, layers }), data, language);
  // More updates than are ever measured: the schedule hardly moves.
  const trainer = new VlmTrainer(architecture, {
    language,
    maxTextTokens: sequence,
    settings: settings(batch, 1_000_000),
  });
  await saveVlm(trainer.model, join(folder, "vlm"), { language, tokenizerHash: "some" });
  const { tokens, targets } = captionTargets(captions, { language, maxTextTokens: sequence });
  const stored = async (each: typeof tokens) => ({
    dtype: "I32" as const,
    shape: each.shape,
    data: (await each.data()) as Int32Array,
  });
  await saveSafetensors(join(folder, "batch.safetensors"), {
    pictures: { dtype: "F32", shape: [batch, positions, codeWidth], data: pictures },
    tokens: await stored(tokens),
    targets: await stored(targets),
  });
  return { language, data, pictures, trainer };
}

const torchOf = ({ gridSize, heads }: VlmTask) => ({ folder: "", grid: gridSize, heads });
const shapeOf = ({ name, batch, gridSize }: VlmTask): string => `${name} ${batch}x${gridSize}x${gridSize}`;

/** A case whose peer starts from the folder that our side writes when it opens. */
function prepared(
  task: VlmTask,
  rest: Pick<Case, "family" | "name">,
  torch: { kernel: string; folder: string },
  run: (parts: Prepared) => { work: (repetitions: number) => Promise<readonly number[] | undefined>; close(): void },
): Case {
  return {
    ...rest,
    unit: "images/s",
    amount: task.batch,
    async open(): Promise<Opened> {
      const folder = await mkdtemp(join(tmpdir(), "trefoil-bench-"));
      torch.folder = folder;
      const parts = await prepare(task, folder);
      const { work, close } = run(parts);
      return {
        side: {
          name: "trefoil",
          async run(repetitions): Promise<Timing> {
            const begun = performance.now();
            const scores = await work(repetitions);
            return { seconds: (performance.now() - begun) / 1000 / repetitions, ...(scores && { scores }) };
          },
        },
        async close() {
          close();
          parts.trainer.dispose();
          parts.language.dispose();
          await rm(folder, { recursive: true, force: true });
        },
      };
    },
    torch,
  };
}

/** A training step of resampler and gated blocks before a frozen language model, on one batch: both sides' losses are comparable. */
function vlmStep(task: VlmTask): Case {
  const torch = { kernel: "vlm_step", ...torchOf(task) };
  return prepared(task, { family: "vision-language step", name: shapeOf(task) }, torch, ({ data, trainer }) => {
    const losses: number[] = [];
    return {
      work: async (repetitions) => {
        for (let i = 0; i < repetitions; i++) {
          losses.push((await trainer.step({ real: data, syntheticShare: 0 }, losses.length)).loss);
        }
        return [...losses];
      },
      close: () => undefined,
    };
  });
}

/** Greedy captions of a batch of pictures, with caches, by models that never end a text. */
function captioning(task: VlmTask): Case {
  const torch = { kernel: "caption_pictures", new_tokens: sequence, ...torchOf(task) };
  const rest = { family: "captions of pictures", name: `${shapeOf(task)}, ${sequence} tokens` };
  return prepared(task, rest, torch, ({ language, pictures, trainer }) => {
    const { tokenizer, start } = language;
    const endless = { tokenizer, start, ends: [-1] as const };
    const captioner = new Captioner(trainer.model, endless, { maxTokens: sequence, batch: task.batch });
    return {
      work: async (repetitions) => {
        for (let i = 0; i < repetitions; i++) await captioner.caption(pictures, task.batch);
        return undefined;
      },
      close: () => captioner[Symbol.dispose](),
    };
  });
}

export function visionLanguageCases(quick: boolean): Case[] {
  const task: VlmTask = quick
    ? {
        ...{ name: "tiny", gridSize: 4, batch: 2, width: 16, latents: 2, heads: 2, layers: 1 },
        language: { hiddenSize: 32, layers: 1, heads: 2, intermediateSize: 32, maxPositions: 64 },
      }
    : {
        ...{ name: "1m", gridSize: 16, batch: 32, width: 128, latents: 16, heads: 4, layers: 2 },
        language: { hiddenSize: 128, layers: 4, heads: 4, intermediateSize: 352, maxPositions: 64 },
      };
  return [vlmStep(task), captioning(task)];
}
