import { type BalanceForm, type Mixtral, type Parameter, saveModel } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { checkOutput, OpenModel } from "./model.js";
import { context } from "./seed.js";
import { type StageContext, type TrainSettings, train } from "./training.js";

/**
 * What of a mixture is trained. The paper trains all, and finds that frozen experts cost nothing on average (Table 5).
 */
export const finetuneScopes = ["all", "router", "all-but-experts"] as const;
export type FinetuneScope = (typeof finetuneScopes)[number];

/** Forms of the balancing loss; they differ by a factor and by what is counted. */
export const balanceForms = ["btx", "switch", "hf", "megatron"] as const satisfies readonly BalanceForm[];

export interface FinetuneOptions extends StageContext {
  /** Folder of the mixture. */
  model: string;
  /** The union of the experts' data, by the domains' weights. */
  domains: readonly DomainTokens[];
  scope: FinetuneScope;
  balance: { form: BalanceForm; coefficient: number };
  settings: TrainSettings;
  /** Folder of the finetuned mixture. */
  output: string;
  run: string;
  resume?: boolean;
  overwrite?: boolean;
}

/**
 * Finetunes a mixture on all domains (arXiv 2403.07816, §3.2) with the balancing loss of §3.3. Returns whether it came
 * to the end.
 */
export async function finetuneMixture(options: FinetuneOptions): Promise<boolean> {
  const { model, domains, scope, balance, settings, output, run, resume, overwrite, progress, signal } = options;
  checkOutput(output, overwrite);
  using source = await OpenModel.open(model);
  const { completed } = await train({
    model: source.mixture,
    parameters: parametersOf(source.mixture, scope),
    data: domains.map((domain) => ({ domain, weight: domain.weight ?? 1 })),
    settings,
    ...(balance.coefficient > 0 && { balance }),
    run,
    title: "finetune",
    config: { model, scope, balance, settings },
    ...context({ progress, signal, resume }),
  });
  if (completed)
    await saveModel(source.model, output, { config: source.config, tokenizerFrom: model, ...context({ overwrite }) });
  return completed;
}

function parametersOf(model: Mixtral, scope: FinetuneScope): Parameter[] {
  const wanted = (name: string): boolean => {
    const moe = name.includes(".block_sparse_moe.");
    const router = name.endsWith(".block_sparse_moe.gate");
    return scope === "all" || (scope === "router" ? router : router || !moe);
  };
  return [...model.namedParameters()].flatMap(([name, parameter]) => (wanted(name) ? [parameter] : []));
}
