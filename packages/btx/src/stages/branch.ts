import { existsSync } from "node:fs";
import { join } from "node:path";
import { type CausalLM, type Parameter, saveModel } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { StageError } from "./errors.js";
import { checkOutput, OpenModel } from "./model.js";
import { context } from "./seed.js";
import { type StageContext, type TrainSettings, train, type WeightedDomain } from "./training.js";

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
 * all came to the end.
 */
export async function trainBranches(options: BranchOptions): Promise<boolean> {
  const { domains, only, resume, output } = options;
  const unknown = only?.find((name) => !domains.some((domain) => domain.name === name));
  if (unknown !== undefined) {
    throw new StageError(
      "BTX_OPTIONS",
      `there is no domain ${unknown}: the domains are ${domains.map(({ name }) => name).join(", ")}`,
    );
  }
  for (const domain of domains) {
    if (only && !only.includes(domain.name)) continue;
    if (resume && existsSync(join(output, domain.name))) continue;
    if (!(await trainBranch(domain, options))) return false;
  }
  return true;
}

async function trainBranch(domain: DomainTokens, options: BranchOptions): Promise<boolean> {
  const { seed, domains, replay, scope, settings, progress, signal, resume, overwrite } = options;
  checkOutput(join(options.output, domain.name), overwrite);
  using source = await OpenModel.open(seed);
  const { completed } = await train({
    model: source.model,
    parameters: parametersOf(source.model, scope),
    data: withReplay(domain, domains, replay),
    settings,
    run: join(options.run, domain.name),
    title: `expert ${domain.name}`,
    config: { seed, domain: domain.name, replay, scope, settings },
    ...context({ progress, signal, resume }),
  });
  if (completed) {
    const { config } = source;
    await saveModel(source.model, join(options.output, domain.name), {
      config,
      tokenizerFrom: seed,
      ...context({ overwrite }),
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
  if (named.length === 0) throw new StageError("BTX_MODEL", "the seed is a mixture already: branch a dense model");
  return named.map(([, parameter]) => parameter);
}
