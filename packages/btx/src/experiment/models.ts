import { existsSync } from "node:fs";
import { readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { ByteTokenizer, readTransformerConfig, saveModel, writeFileAtomic } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { averageModels, type MixOptions, mix, upcycle } from "../mix/index.js";
import {
  finetuneMixture,
  mixWithRidgeRouter,
  OpenModel,
  type TrainSettings,
  train,
  trainBranches,
  trainSeed,
} from "../stages/index.js";
import { activeParameters, type Cost, noCost, totalCost } from "./cost.js";
import {
  domainNames,
  type ExperimentSettings,
  finetuneShare,
  type Matching,
  type Regime,
  type Variant,
} from "./plan.js";

/** A trained model and what it took after the seed. */
export interface Made {
  path: string;
  cost: Cost;
}

/** Text of each domain that a ridge router is solved from. */
const ridgeTokens = 32_768;
const expertCount = domainNames.length + 1;
/** Sample Top-1 comes to its least temperature, 0.5, after this share of the steps, as in the paper. */
const annealedShare = 0.18;

/** Makes the models of one seed, each once: what is in its folder with its cost is used as it is. */
export class SeedModels {
  constructor(
    readonly directory: string,
    readonly seed: number,
    readonly settings: ExperimentSettings,
    readonly domains: readonly DomainTokens[],
  ) {}

  /** The model that all others start from. */
  async base(): Promise<Made> {
    const { sizes, seedSteps, seedLearningRate: learningRate } = this.settings;
    return await this.#make("seed", async (output, run) => {
      const settings = { ...this.#train(seedSteps), learningRate };
      await trainSeed({ sizes, domains: this.domains, tokenizer: new ByteTokenizer(), settings, output, run });
      return noCost;
    });
  }

  async expert(regime: Regime, domain: string, share = finetuneShare[regime]): Promise<Made> {
    const { path: seed } = await this.base();
    const dense = await this.#active(seed);
    const steps = Math.max(1, Math.round(((1 - share) * this.settings.steps) / domainNames.length));
    const name = `branches-${regime}-${share}/${domain}`;
    return await this.#make(name, async (output, run, folder) => {
      const levers = regime === "levers";
      const options = { seed, domains: this.domains, only: [domain], settings: this.#train(steps) };
      const scope = levers ? ("feed-forward" as const) : ("all" as const);
      const seconds = await timed(() =>
        trainBranches({ ...options, scope, replay: levers ? 0.1 : 0, output: join(folder, "models"), run }),
      );
      // `branch` names its outputs by domain.
      await rename(join(folder, "models", domain), output);
      return this.#cost(steps, dense, seconds);
    });
  }

  async experts(regime: Regime, share?: number): Promise<Made[]> {
    const made: Made[] = [];
    for (const domain of domainNames) made.push(await this.expert(regime, domain, share));
    return made;
  }

  async average(regime: Regime): Promise<Made> {
    const experts = await this.experts(regime);
    const { path: seed } = await this.base();
    return await this.#make(`average-${regime}`, async (output) => {
      await averageModels({ models: [...experts.map(({ path }) => path), seed], output });
      return totalCost(experts.map(({ cost }) => cost));
    });
  }

  /** Experts and the seed as a generalist, mixed and finetuned with the FLOPs that the branches left. */
  async mixture(regime: Regime, variant: Variant, share = finetuneShare[regime]): Promise<Made> {
    const experts = await this.experts(regime, share);
    const { path: generalist } = await this.base();
    const dense = await this.#active(generalist);
    return await this.#make(
      `mixture-${regime}-${variant.replaceAll(" ", "-")}-${share}`,
      async (output, run, folder) => {
        const unfinetuned = join(folder, "mixed");
        const split = variant === "splitting";
        const options: MixOptions = {
          experts: experts.map(({ path }) => path),
          names: domainNames,
          generalist,
          output: unfinetuned,
          expertsPerToken: split ? 4 : 2,
          ...(split && { arrange: { kind: "split", chunks: 2 } }),
          ...(variant === "blending" && { arrange: { kind: "blend" } }),
          router: { kind: "random", seed: this.seed },
        };
        const whole = !split && variant !== "blending";
        let seconds = await timed(async () => {
          if (!whole || regime === "paper") return await mix(options);
          const texts = this.domains.map(({ train: file }, expert) => ({ file, expert }));
          const { batch, sequence } = this.settings;
          return await mixWithRidgeRouter(options, texts, { tokens: ridgeTokens, batch, sequence });
        });
        const sampled = variant === "sample top-1";
        const router = sampled ? ({ kind: "sample-top-1", softFirstLayer: true } as const) : undefined;
        const config = await readTransformerConfig(unfinetuned);
        const active = activeParameters({ ...config, ...(router && { router }) });
        const steps = Math.max(1, Math.round((share * this.settings.steps * dense) / active));
        seconds += await timed(() =>
          finetuneMixture({
            model: unfinetuned,
            domains: this.domains,
            scope: variant === "frozen experts" ? "all-but-experts" : "all",
            balance: {
              form: "btx",
              coefficient: variant === "no balancing" || variant === "frozen experts" ? 0 : 0.01,
            },
            ...(router && { router, temperature: { rate: Math.LN2 / (annealedShare * steps), floor: 0.5 } }),
            settings: this.#train(steps),
            output,
            run,
          }),
        );
        const finetuning = this.#cost(steps, active, seconds);
        return totalCost([...experts.map(({ cost }) => cost), finetuning]);
      },
    );
  }

  /** Dense continued training, or sparse upcycling, on the finetuning mixture: the domains' union is the same as the branches'. */
  async rival(kind: "dense" | "upcycled", match: Matching, regime?: Regime): Promise<Made> {
    const { path: seed } = await this.base();
    const budget = match === "FLOPs" ? undefined : (await this.mixture(regime!, "top-2")).cost;
    const reference = match === "time" ? (await this.rival(kind, "FLOPs")).cost : undefined;
    const dense = await this.#active(seed);
    return await this.#make(`${kind}-${match}-${regime ?? "both"}`, async (output, run, folder) => {
      const start = kind === "dense" ? seed : join(folder, "copies");
      const router = { kind: "random", seed: this.seed } as const;
      if (kind === "upcycled") await upcycle({ model: seed, output: start, experts: expertCount, router });
      const active = await this.#active(start);
      const perStep = this.settings.batch * this.settings.sequence;
      const tokens =
        match === "FLOPs"
          ? (this.settings.steps * perStep * dense) / active
          : match === "tokens"
            ? budget!.tokens
            : (reference!.tokens * budget!.seconds) / reference!.seconds;
      const steps = Math.max(1, Math.round(tokens / perStep));
      const shared = { settings: this.#train(steps), run };
      const seconds = await timed(() =>
        kind === "dense"
          ? this.#continue(start, output, shared)
          : finetuneMixture({
              model: start,
              domains: this.domains,
              scope: "all",
              balance: { form: "btx", coefficient: 0.01 },
              output,
              ...shared,
            }),
      );
      return this.#cost(steps, active, seconds);
    });
  }

  async #continue(start: string, output: string, options: { settings: TrainSettings; run: string }): Promise<void> {
    using source = await OpenModel.open(start);
    const data = this.domains.map((domain) => ({ domain, weight: 1 }));
    await train({ model: source.model, data, title: "dense", from: { start }, config: options, ...options });
    await saveModel(source.model, output, { config: source.config, tokenizerFrom: start });
  }

  async #active(path: string): Promise<number> {
    return activeParameters(await readTransformerConfig(path));
  }

  #cost(steps: number, active: number, seconds: number): Cost {
    const tokens = steps * this.settings.batch * this.settings.sequence;
    return { tokens, flops: 6 * active * tokens, seconds };
  }

  #train(steps: number): TrainSettings {
    const { batch, sequence, learningRate } = this.settings;
    const constants = { warmupSteps: 20, weightDecay: 0.1, clipNorm: 1, keepCheckpoints: 1, checkpointEvery: steps };
    return { steps, batch, sequence, learningRate, seed: this.seed, ...constants };
  }

  /** A stage stopped half-way is made again from its beginning, so that its seconds are those of all of it. */
  async #make(name: string, make: (output: string, run: string, folder: string) => Promise<Cost>): Promise<Made> {
    const folder = join(this.directory, name);
    const path = join(folder, "model");
    const costs = join(folder, "cost.json");
    if (existsSync(costs)) return { path, cost: JSON.parse(await readFile(costs, "utf8")) as Cost };
    await rm(folder, { recursive: true, force: true });
    const cost = await make(path, join(folder, "run"), folder);
    await writeFileAtomic(costs, JSON.stringify(cost));
    return { path, cost };
  }
}

/** CPU seconds of this process. */
async function timed(work: () => Promise<unknown>): Promise<number> {
  const before = process.cpuUsage();
  await work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}
