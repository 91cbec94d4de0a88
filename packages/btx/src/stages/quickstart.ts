import { existsSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { type BalanceForm, ByteTokenizer, defined, type StageContext, writeFileAtomic } from "@trefoil/core";
import { closeDomains, type DomainSpec, type DomainTokens, hasBuiltIn, openDomains } from "../domains/index.js";
import { averageModels, mix } from "../mix/index.js";
import { makeTask } from "../tasks/index.js";
import { type BranchScope, trainBranches } from "./branch.js";
import { evaluateModel, type ModelScores } from "./evaluate.js";
import { finetuneMixture } from "./finetune.js";
import { mixWithRidgeRouter } from "./mix-with-ridge.js";
import { OpenModel } from "./model.js";
import { type DomainRouting, routingTable } from "./routing.js";
import { type SeedSizes, trainSeed } from "./seed.js";
import type { TrainSettings } from "./training.js";

export interface QuickstartOptions extends StageContext {
  /** Folder for everything: text, models, training runs, results. */
  run: string;
  /** Go on where a run stopped. */
  resume?: boolean;
  domains: Readonly<Record<string, DomainSpec>>;
  heldOutShare: number;
  maxBytes: number;
  roots?: readonly string[];
  sizes: SeedSizes;
  /** What the stages share; each has its own steps and peak learning rate. */
  train: Omit<TrainSettings, "steps" | "learningRate">;
  seed: Pick<TrainSettings, "steps" | "learningRate">;
  branch: Pick<TrainSettings, "steps" | "learningRate"> & { replay: number; scope: BranchScope };
  router: { kind: "random" } | { kind: "ridge"; lambda: number; sharpness: number; tokens: number };
  finetune: Pick<TrainSettings, "steps" | "learningRate"> & { form: BalanceForm; coefficient: number };
  /** Held-out windows of each domain, and arithmetic problems. */
  windows: number;
  problems: number;
}

/** Where a quickstart keeps things in its run directory. */
export const quickstartLayout = (run: string) => {
  const models = join(run, "models");
  return {
    data: join(run, "data"),
    results: join(run, "results.json"),
    seed: join(models, "seed"),
    experts: join(models, "experts"),
    average: join(models, "average"),
    mixture: join(models, "mixture"),
    finetuned: join(models, "finetuned"),
    runs: { seed: join(run, "seed"), experts: join(run, "experts"), finetune: join(run, "finetune") },
  };
};

export interface QuickstartResults {
  /** Seed, experts, average, mixture before and after finetuning. */
  scores: ModelScores[];
  /** Names of the experts in the order of the mixture. */
  experts: string[];
  routing: { before: DomainRouting[]; after: DomainRouting[] };
}

/**
 * The whole method in small: a seed, its branches, the mixture, its finetuning, and what each is worth on held-out
 * text. The seed itself is the last expert, a generalist, as in the paper. Returns nothing when the signal stopped it;
 * call again with `resume`.
 */
export async function quickstart(options: QuickstartOptions): Promise<QuickstartResults | undefined> {
  const { run, domains: sources, progress, signal, heldOutShare, maxBytes, roots } = options;
  const tokenizer = new ByteTokenizer();
  const stage = progress?.stage("read text", { total: Object.keys(sources).length, unit: "domains" });
  const domains = await openDomains(sources, {
    tokenizer,
    cache: quickstartLayout(run).data,
    heldOutShare,
    maxBytes,
    ...(roots && { roots }),
    ...defined({ signal }),
  });
  const sizes = domains.map(
    ({ name, train, heldOut }) =>
      `${name} ${megabytes(train.header.textBytes)} + ${megabytes(heldOut.header.textBytes)} held out`,
  );
  stage?.succeed(sizes.join(", "));
  try {
    if (!(await makeModels(options, domains, tokenizer))) return undefined;
    return await measure(options, domains);
  } finally {
    closeDomains(domains);
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(2)} MB`;

/** Everything up to the finetuned mixture; a model that is there already is kept. */
async function makeModels(
  options: QuickstartOptions,
  domains: readonly DomainTokens[],
  tokenizer: ByteTokenizer,
): Promise<boolean> {
  const { run, resume, progress, signal, sizes } = options;
  const at = quickstartLayout(run);
  const shared = defined({ resume, progress, signal });
  const settings = (stage: Pick<TrainSettings, "steps" | "learningRate">): TrainSettings => ({
    ...options.train,
    steps: stage.steps,
    learningRate: stage.learningRate,
  });

  if (!existsSync(at.seed)) {
    const seed = { sizes, domains, tokenizer, settings: settings(options.seed), output: at.seed, run: at.runs.seed };
    if (!(await trainSeed({ ...seed, ...shared }))) return false;
  }
  const { replay, scope } = options.branch;
  const branches = {
    seed: at.seed,
    domains,
    replay,
    scope,
    settings: settings(options.branch),
    output: at.experts,
    run: at.runs.experts,
  };
  if (!(await trainBranches({ ...branches, ...shared, resume: true }))) return false;
  const folders = expertFolders(options);
  if (!existsSync(at.average)) await averageModels({ models: folders, output: at.average });
  if (!existsSync(at.mixture)) await mixExperts(options, domains, folders);
  if (!existsSync(at.finetuned)) {
    const { form, coefficient } = options.finetune;
    const finetune = {
      model: at.mixture,
      domains,
      scope: "all" as const,
      balance: { form, coefficient },
      settings: settings(options.finetune),
    };
    if (!(await finetuneMixture({ ...finetune, output: at.finetuned, run: at.runs.finetune, ...shared }))) return false;
  }
  return true;
}

/** One folder per domain, then the seed. */
function expertFolders({ run, domains }: QuickstartOptions): string[] {
  const at = quickstartLayout(run);
  return [...Object.keys(domains).map((name) => join(at.experts, name)), at.seed];
}

async function mixExperts(
  options: QuickstartOptions,
  domains: readonly DomainTokens[],
  experts: string[],
): Promise<void> {
  const { router, train, progress, signal } = options;
  const target = { experts, output: quickstartLayout(options.run).mixture, ...defined({ signal }) };
  if (router.kind === "random") {
    await mix({ ...target, router: { kind: "random", seed: train.seed } });
    return;
  }
  const texts = domains.map(({ train: file }, expert) => ({ file, expert }));
  const { batch, sequence } = train;
  await mixWithRidgeRouter(target, texts, { ...router, batch, sequence, ...defined({ progress, signal }) });
}

async function measure(options: QuickstartOptions, domains: readonly DomainTokens[]): Promise<QuickstartResults> {
  const { run, progress, signal, train, windows, problems, heldOutShare } = options;
  const at = quickstartLayout(run);
  const names = [...domains.map(({ name }) => name), "seed"];
  const models: [string, string][] = [
    ["seed", at.seed],
    ...domains.map(({ name }): [string, string] => [`expert ${name}`, join(at.experts, name)]),
    ["average of all", at.average],
    ["mixture", at.mixture],
    ["mixture, finetuned", at.finetuned],
  ];
  const window = { batch: train.batch, sequence: train.sequence, windows };
  const asked = hasBuiltIn(options.domains, "@arithmetic") && problems > 0;
  const tasks = asked ? [makeTask("arithmetic", { count: problems, heldOutShare })] : [];
  const stage = progress?.stage("evaluate", { total: models.length, unit: "models" });
  const scores: ModelScores[] = [];
  const routing: DomainRouting[][] = [];
  for (const [name, path] of models) {
    using opened = await OpenModel.open(path);
    scores.push(await evaluateModel(opened, name, domains, { ...window, tasks, ...defined({ signal }) }));
    if (path === at.mixture || path === at.finetuned)
      routing.push(await routingTable(opened.mixture, domains, window, signal));
    stage?.update(scores.length);
  }
  stage?.succeed();
  const results = { scores, experts: names, routing: { before: routing[0]!, after: routing[1]! } };
  await writeFileAtomic(at.results, `${JSON.stringify(results, null, 2)}\n`);
  return results;
}

/** The results of a finished run. */
export async function readQuickstartResults(run: string): Promise<QuickstartResults> {
  return JSON.parse(await readFile(quickstartLayout(run).results, "utf8")) as QuickstartResults;
}
