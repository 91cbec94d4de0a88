import { join } from "node:path";
import { type ExperimentOptions, type RunUnit, runUnits } from "@trefoil/core";
import { compareCaptions, type LanguageModel } from "../captions/index.js";
import { type Faithfulness, measureFaithfulness } from "../faithfulness/index.js";
import { captionsOf, type OpenMaskedGenerator } from "../generator/index.js";
import { maxCaptionTokens, Stages } from "../pipeline/index.js";
import type { VqImageTokenizer } from "../tokenizer/index.js";
import { Captioner, type CaptionerScores, measurePictureUse, scoreDataset } from "../vlm/index.js";
import { measureEfficiency } from "./efficiency.js";
import { measurePeak } from "./peak.js";
import {
  type Arm,
  arms,
  type ExperimentSettings,
  efficiencyRow,
  faithfulnessRow,
  rowsOfSeed,
  type TestName,
  tests,
} from "./plan.js";
import { type ResultRow, resultKey } from "./results.js";
import { truthSeries } from "./seen.js";

/** Captions of an arm that its row keeps, to be shown. */
const shown = 12;

interface SeedModels {
  stages: Stages;
  images: VqImageTokenizer;
  generator: OpenMaskedGenerator;
  language: LanguageModel;
}

/** Runs the rows of a seed that have no result: faithfulness first, then the arms, then what each way of training costs. */
export const runSeed: RunUnit<ExperimentSettings, number, ResultRow> = async (request, signal, emit) => {
  const { directory, settings, unit: seed, known } = request;
  const stages = new Stages(join(directory, `seed-${seed}`), seed, settings.pipeline, signal ? { signal } : {});
  let before = process.cpuUsage();
  try {
    using images = await stages.tokenizer();
    const generator = await stages.generator(images);
    using _ = { [Symbol.dispose]: () => generator.model.dispose() };
    using language = await stages.language(generator);
    const models = { stages, images, generator, language };
    for (const name of rowsOfSeed) {
      if (known.includes(resultKey({ arm: name, seed }))) continue;
      signal?.throwIfAborted();
      const measured = await measureRow(name, models, settings, signal);
      const { user, system } = process.cpuUsage(before);
      before = process.cpuUsage();
      await emit({ arm: name, seed, seconds: (user + system) / 1e6, ...measured });
    }
    return true;
  } catch (error) {
    if (signal?.aborted) return false;
    throw error;
  }
};

async function measureRow(
  name: string,
  models: SeedModels,
  settings: ExperimentSettings,
  signal: AbortSignal | undefined,
): Promise<Omit<ResultRow, "arm" | "seed" | "seconds">> {
  if (name === faithfulnessRow) return await judge(models, settings);
  if (name === efficiencyRow) {
    const { stages, language } = models;
    const { pipeline, timedSteps: steps } = settings;
    const { seed, folder } = stages;
    const captions = await stages.captions("balanced", language);
    await using cached = await stages.synthetic("balanced", captions, models);
    const efficiency = await measureEfficiency({ ...models, pipeline, seed, steps, captions, cached }, (way) =>
      measurePeak({ folder, seed, pipeline, way }, signal),
    );
    return { efficiency };
  }
  return await runArm(arms.find((arm) => arm.name === name)!, models, settings);
}

/** What generated pictures of captions of the tests show, beside true ones; and what the written captions are like. */
async function judge({ stages, images: tokenizer, generator, language }: SeedModels, settings: ExperimentSettings) {
  const faithfulness: Partial<Record<TestName, Faithfulness>> = {};
  for (const test of tests) {
    faithfulness[test] = await measureFaithfulness({
      ...{ data: stages.data(test, settings.testPictures), tokenizer, generator, ...stages.context },
      ...{ sampling: stages.settings.sampling, seed: stages.seed },
    });
  }
  const human = await captionsOf(stages.pairs);
  const compare = async (origin: "balanced" | "skewed") =>
    compareCaptions(
      (await stages.captions(origin, language)).map(({ caption }) => caption),
      human,
    );
  return {
    faithfulness: faithfulness as Record<TestName, Faithfulness>,
    captions: { balanced: await compare("balanced"), skewed: await compare("skewed") },
  };
}

async function runArm({ name, extra, share }: Arm, models: SeedModels, { pipeline, testPictures }: ExperimentSettings) {
  const { stages, images, language } = models;
  const real = await stages.coded(stages.pairs, images);
  const context = stages.context;
  const train = async () => {
    const named = name.replaceAll(/\W+/g, "-");
    if (extra === undefined) return await stages.vlm(named, language, { real, syntheticShare: 0 });
    if (extra === "truth") {
      const synthetic = await stages.coded(stages.data("balanced", pipeline.synthetic, truthSeries), images);
      return await stages.vlm(named, language, { real, synthetic, syntheticShare: share });
    }
    await using synthetic = await stages.synthetic(extra, await stages.captions(extra, language), models);
    return await stages.vlm(named, language, { real, synthetic, syntheticShare: share });
  };
  const { model } = await train();
  try {
    using captioner = new Captioner(model, language, { maxTokens: maxCaptionTokens, batch: 32 });
    const scores: Partial<Record<TestName, CaptionerScores>> = {};
    let written: string[] = [];
    for (const test of tests) {
      const coded = await stages.coded(stages.data(test, testPictures), images);
      const captions = await captioner.captionAll(coded, context);
      scores[test] = scoreDataset(captions, coded);
      if (test === "test") written = captions.slice(0, shown);
    }
    const held = await stages.coded(stages.data("test", testPictures), images);
    const use = await measurePictureUse(model, held, { language, maxTextTokens: maxCaptionTokens });
    return { scores: scores as Record<TestName, CaptionerScores>, use, written };
  } finally {
    model.dispose();
  }
}

/**
 * Runs every row of every seed that has no result yet. Returns whether all were run.
 * @throws ResumeError where the folder holds an experiment of other settings
 */
export async function runExperiment(
  directory: string,
  settings: ExperimentSettings,
  options: ExperimentOptions,
): Promise<boolean> {
  return await runUnits(options, {
    ...{ directory, settings },
    mayChange: ["seeds"],
    units: Array.from({ length: settings.seeds }, (_, i) => i + 1),
    keysOf: (seed) => rowsOfSeed.map((arm) => resultKey({ arm, seed })),
    keyOf: resultKey,
    run: runSeed,
    worker: new URL("./worker.js", import.meta.url),
    describe: ({ seed, arm, faithfulness, scores, seconds }) => {
      const share = (value: number) => `${(100 * value).toFixed(0)} %`;
      const found = faithfulness
        ? tests
            .map((test) => [test, faithfulness[test].generated!.exact, faithfulness[test].reconstructed.exact] as const)
            .map(([test, ours, most]) => `${test} ${share(ours)} as said, of true ones ${share(most)}`)
            .join(", ")
        : scores
          ? tests.map((test) => `${test} ${(100 * scores[test].cider).toFixed(1)}`).join(", ")
          : "measured";
      return `seed ${seed}, ${arm}: ${found} (${seconds.toFixed(0)} CPU seconds)`;
    },
  });
}
