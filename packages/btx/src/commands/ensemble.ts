import { basename, resolve } from "node:path";
import { defineCommand, evaluationBatches, InitialValues, type TokenBatch } from "@trefoil/core";
import { z } from "zod";
import { closeDomains, type DomainTokens } from "../domains/index.js";
import {
  bitsPerByteFrom,
  domainTfIdf,
  ensembleMeans,
  ensembleNats,
  ensembleRules,
  ensembleWeights,
  generateFromEnsemble,
  geometricNats,
  meanPosterior,
  textWeights,
  windowNats,
} from "../ensemble/index.js";
import { requireContext } from "../stages/context.js";
import { OpenModel, StageError } from "../stages/index.js";
import { dataFields, openData } from "./fields.js";
import { scoresTable } from "./scores.js";

/** Text of each domain that tf-idf is made of. */
const tfIdfWindows = 512;

export const ensembleCommand = defineCommand({
  name: "ensemble",
  summary: "Use branches together without merging them (Branch-Train-Merge): score text, or continue a prompt.",
  description:
    "Every token's probability is a weighted mean over the models (arXiv 2208.03306), arithmetic or geometric. With cosine and distance, a model belongs to the domain that its folder is named after; models without one are left out. Costs one forward pass for each model that counts, under bayes for all.",
  examples: [
    "btx ensemble --models experts/code,experts/prose,models/seed",
    "btx ensemble --models experts/code,experts/prose --rule cosine --top-k 1 --prompt 'export '",
    "btx ensemble --models experts/code,experts/prose --weights code",
  ],
  schema: z.strictObject({
    models: z
      .array(z.string().min(1))
      .min(2)
      .describe("Folders of the models; all have one tokenizer.")
      .meta({ placeholder: "folders" }),
    rule: z
      .enum(ensembleRules)
      .default("bayes")
      .describe(
        "bayes: posterior of each model given the text so far; cosine: the nearest by tf-idf, averaged; distance: exp(-d²/T) of tf-idf; uniform: all the same.",
      ),
    mean: z
      .enum(ensembleMeans)
      .default("arithmetic")
      .describe("arithmetic: weighted sum of probabilities; geometric: weighted product of them, normalised."),
    topK: z.number().int().positive().optional().describe("At most this many models count. Default: all."),
    temperature: z.number().positive().default(0.1).describe("T of the distance rule."),
    prior: z.array(z.number().positive()).default([]).describe("Prior of each model under bayes; equal by default."),
    prompt: z.string().min(1).optional().describe("Text to continue; without it held-out text is scored."),
    maxNewTokens: z.number().int().positive().default(200).describe("Tokens to add at most.").meta({ unit: "tokens" }),
    sampling: z.number().nonnegative().default(0).describe("Sampling temperature; 0: the most likely token."),
    seed: z.number().int().nonnegative().default(0).describe("The same seed draws the same tokens."),
    weights: z
      .string()
      .min(1)
      .optional()
      .describe("Print the models' mean posterior over this domain's held-out text, for `btx average --weights`.")
      .meta({ placeholder: "domain" }),
    data: dataFields.prefault({}),
    windows: z.number().int().positive().default(64).describe("Windows of each domain.").meta({ unit: "windows" }),
    sequence: z.number().int().min(4).default(256).describe("Tokens of a window.").meta({ unit: "tokens" }),
    batch: z.number().int().positive().default(16).describe("Windows evaluated at a time.").meta({ unit: "rows" }),
  }),
  run: async (config, { signal, stdout }) => {
    const { rule, topK, temperature, prior, windows, sequence, batch } = config;
    if (config.prompt !== undefined && config.weights !== undefined)
      throw new StageError("BTX_OPTIONS", "give --prompt or --weights, one of them");
    const named = config.models.map((path) => ({ path, name: basename(resolve(path)) }));
    const byText = rule === "cosine" || rule === "distance";
    const domained = Object.keys(config.data.domains);
    const chosen = byText && !config.weights ? named.filter(({ name }) => domained.includes(name)) : named;
    if (chosen.length < 2)
      throw new StageError("BTX_OPTIONS", `${rule} needs two models whose folders are named after a domain of --data`);
    if (prior.length > 0 && prior.length !== chosen.length)
      throw new StageError("BTX_OPTIONS", `--prior has ${prior.length} values for ${chosen.length} models`);
    if (config.prompt === undefined)
      await requireContext(
        chosen.map(({ path }) => path),
        sequence,
      );
    const opened: OpenModel[] = [];
    let domains: DomainTokens[] = [];
    try {
      for (const { path } of chosen) opened.push(await OpenModel.open(path));
      const { tokenizer, config: modelConfig } = opened[0]!;
      const other = opened.find((each) => each.tokenizer.hash !== tokenizer.hash);
      if (other) throw new StageError("BTX_TOKENIZER", `${other.path} has another tokenizer than ${chosen[0]!.path}`);
      const options = {
        rule,
        temperature,
        ...(topK !== undefined && { topK }),
        ...(prior.length > 0 && { prior }),
      };
      if (config.prompt === undefined || byText) domains = await openData(config.data, tokenizer, signal);
      const context = Math.floor(sequence / 2);
      const trainOf = (name: string) => domains.find((domain) => domain.name === name)!.train;
      const files = byText ? chosen.map(({ name }) => trainOf(name)) : [];
      const tfIdf = byText ? domainTfIdf(files, tokenizer, { sequence: context, windows: tfIdfWindows }) : undefined;
      const models = opened.map(({ model }) => model);

      if (config.prompt !== undefined) {
        const prompt = config.prompt;
        const ids = tokenizer.encode(prompt);
        const random = new InitialValues(config.seed);
        const fixed = textWeights(models.length, options, tfIdf, () => prompt);
        const room = modelConfig.maxPositions - ids.length;
        const tokens = await generateFromEnsemble(models, ids, {
          ...options,
          mean: config.mean,
          ...(fixed && { weights: fixed }),
          maxNewTokens: Math.max(1, Math.min(config.maxNewTokens, room)),
          temperature: config.sampling,
          eosTokenIds: modelConfig.eosTokenIds,
          random: () => random.next(),
          signal,
        });
        stdout.write(`${prompt}${tokenizer.decode(tokens)}\n`);
        return;
      }

      const asked = config.weights;
      const shown = asked === undefined ? domains : domains.filter(({ name }) => name === asked);
      if (shown.length === 0) throw new StageError("BTX_OPTIONS", `--weights ${asked}: there is no such domain`);
      const lengths = tokenizer.byteLengths();
      if (!lengths) throw new StageError("BTX_TOKENIZER", "bits per byte need a byte-level tokenizer");
      const scores = ["ensemble", ...chosen.map(({ path }) => path)].map((model) => ({
        model,
        bitsPerByte: {} as Record<string, number>,
        exactMatch: {},
      }));
      for (const { name, heldOut } of shown) {
        const batches: TokenBatch[] = [...evaluationBatches(heldOut, { batch, sequence, maxWindows: windows })];
        const nats = [];
        for (const model of models) nats.push(await windowNats(model, batches, signal));
        if (asked !== undefined) {
          const mean = meanPosterior(nats, batches);
          stdout.write(`${mean.map((weight) => weight.toFixed(4)).join(",")}\n`);
          return;
        }
        const text = { ...options, context, tokenizer, ...(tfIdf && { tfIdf }) };
        const mixed =
          config.mean === "geometric"
            ? await geometricNats(models, batches, ensembleWeights(nats, batches, text), signal)
            : ensembleNats(nats, batches, text);
        [mixed, ...nats].forEach((each, i) => {
          scores[i]!.bitsPerByte[name] = bitsPerByteFrom(each, batches, lengths, context);
        });
      }
      stdout.write(scoresTable(scores));
      stdout.write(
        `The second half of each window, given the first; ${rule} over ${chosen.length} models, ${config.mean} mean.\n`,
      );
    } finally {
      closeDomains(domains);
      for (const each of opened) each[Symbol.dispose]();
    }
  },
});
