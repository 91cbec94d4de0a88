import { existsSync } from "node:fs";
import { join } from "node:path";
import {
  type CausalLM,
  defined,
  type Parameter,
  RunDirectoryError,
  readTransformerConfig,
  requireFreeOutput,
  runOwner,
  type StageContext,
  saveModel,
} from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { clearFailure, writeBranchPlan, writeFailure } from "./branch-status.js";
import { requireContext } from "./context.js";
import { StageError } from "./errors.js";
import { OpenModel } from "./model.js";
import { type TrainSettings, train, type WeightedDomain } from "./training.js";

/**
 * What of a branch is trained: the paper trains all; with the feed-forward layers alone nothing is lost by averaging
 * the rest.
 */
export const branchScopes = ["all", "feed-forward"] as const;
export type BranchScope = (typeof branchScopes)[number];

export interface BranchOptions extends StageContext {
  /** Folder of the seed. */
  seed: string;
  /** Every domain; each gives one expert. */
  domains: readonly DomainTokens[];
  /** Train these only. */
  only?: readonly string[];
  /** Share of rows from the other domains, so that an expert does not forget them. */
  replay: number;
  scope: BranchScope;
  settings: TrainSettings;
  /** Folder of the experts: `<output>/<domain>`. */
  output: string;
  /** Run directories: `<run>/<domain>`. */
  run: string;
  /** Go on where a run stopped; experts that are complete are kept. */
  resume?: boolean;
  overwrite?: boolean;
}

/**
 * Branches the seed: one independent copy per domain, trained on that domain (arXiv 2403.07816, §3.1). Returns whether
 * all came to the end. One that fails does not stop the others; what is on disk says how each fares (`branchStatus`).
 * @throws StageError `BTX_BRANCHES` naming those that failed, or the error itself where one branch was asked for; `BTX_MODEL` for a seed
 * that is a mixture
 */
export async function trainBranches(options: BranchOptions): Promise<boolean> {
  const { seed, domains, only, resume, overwrite, output, run, settings } = options;
  await requireDense(seed);
  await requireContext([seed], settings.sequence, "--train.sequence");
  const names = domains.map(({ name }) => name);
  const wanted = namesToTrain(names, only).filter((name) => !(resume && existsSync(join(output, name))));
  for (const name of wanted) requireFreeOutput({ output: join(output, name), run: join(run, name), overwrite });
  await writeBranchPlan(run, { output, domains: names, steps: settings.steps });
  const failures: { name: string; error: unknown }[] = [];
  for (const domain of domains) {
    if (!wanted.includes(domain.name)) continue;
    try {
      if (!(await trainBranch(domain, options))) return false;
    } catch (error) {
      // Of a run directory that is not this process's to write, nothing is said either.
      if (!(error instanceof RunDirectoryError)) await writeFailure(run, domain.name, error);
      failures.push({ name: domain.name, error });
    }
  }
  if (failures.length === 0) return true;
  if (wanted.length === 1) throw failures[0]!.error;
  const list = failures.map(({ name, error }) => `${name} (${error instanceof Error ? error.message : error})`);
  throw new StageError("BTX_BRANCHES", `${failures.length} of ${wanted.length} branches failed: ${list.join(", ")}`);
}

/** Branches of a mixture could not be mixed. @throws StageError */
export async function requireDense(seed: string): Promise<void> {
  if ((await readTransformerConfig(seed)).experts === undefined) return;
  const message = `${seed} is a mixture of experts already, whose branches cannot be mixed: branch a dense model, or train the mixture on with \`btx finetune\``;
  throw new StageError("BTX_MODEL", message);
}

/** All domains, or those named. @throws StageError for a name that is none */
export function namesToTrain(names: readonly string[], only?: readonly string[]): string[] {
  const unknown = only?.find((name) => !names.includes(name));
  if (unknown === undefined) return names.filter((name) => !only || only.includes(name));
  throw new StageError("BTX_OPTIONS", `there is no domain ${unknown}: the domains are ${names.join(", ")}`);
}

async function trainBranch(domain: DomainTokens, options: BranchOptions): Promise<boolean> {
  const { seed, domains, replay, scope, settings, progress, signal, resume, overwrite } = options;
  const owner = await runOwner(join(options.run, domain.name));
  if (!owner || owner.gone) await clearFailure(options.run, domain.name);
  using source = await OpenModel.open(seed);
  const completed = await train({
    model: source.model,
    parameters: parametersOf(source.model, scope),
    data: withReplay(domain, domains, replay),
    settings,
    run: join(options.run, domain.name),
    title: `expert ${domain.name}`,
    config: { domain: domain.name, replay, scope, settings },
    from: { seed },
    ...defined({ progress, signal, resume }),
  });
  if (completed) {
    const { config } = source;
    await saveModel(source.model, join(options.output, domain.name), {
      config,
      tokenizerFrom: seed,
      ...defined({ overwrite }),
    });
  }
  return completed;
}

/** One domain with a share of all others, divided by their weights. */
export function withReplay(domain: DomainTokens, domains: readonly DomainTokens[], replay: number): WeightedDomain[] {
  const weightOf = (other: DomainTokens) => (other === domain ? 0 : (other.weight ?? 1));
  const total = domains.reduce((sum, other) => sum + weightOf(other), 0);
  if (total === 0) return [{ domain, weight: 1 }];
  return domains.map((each) => ({
    domain: each,
    weight: each === domain ? 1 - replay : (replay * weightOf(each)) / total,
  }));
}

function parametersOf(model: CausalLM, scope: BranchScope): Parameter[] {
  const named = [...model.namedParameters()].filter(([name]) => scope === "all" || name.includes(".mlp."));
  return named.map(([, parameter]) => parameter);
}
