import {
  choicesOf,
  defined,
  type LoadOptions,
  type LossOptions,
  type Mixtral,
  type Parameter,
  type RouterConfig,
  readTransformerConfig,
  requireFreeOutput,
  type StageContext,
  saveModel,
} from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { requireContext } from "./context.js";
import { StageError } from "./errors.js";
import { OpenModel } from "./model.js";
import { type TrainOptions, type TrainSettings, train } from "./training.js";

/**
 * What of a mixture is trained. The paper trains all, and finds that frozen experts cost nothing on average (Table 5).
 */
export const finetuneScopes = ["all", "router", "all-but-experts"] as const;
export type FinetuneScope = (typeof finetuneScopes)[number];

export interface FinetuneOptions extends StageContext {
  /** Folder of the mixture. */
  model: string;
  /** The union of the experts' data, by the domains' weights. */
  domains: readonly DomainTokens[];
  scope: FinetuneScope;
  /** How routers choose, kept in the result's configuration. Default: as the mixture says. */
  router?: RouterConfig;
  /** Experts that each token visits, for rules that leave it open. Default: as the mixture says. */
  expertsPerToken?: number;
  balance: NonNullable<LossOptions["balance"]>;
  /** Coefficient of the z-loss. Default 0. */
  zLoss?: number;
  /** Annealing of Sample Top-1. */
  temperature?: NonNullable<TrainOptions["routers"]>["temperature"];
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
  const { model, domains, scope, settings, output, run, resume, overwrite, progress, signal } = options;
  const { balance, zLoss = 0, temperature } = options;
  requireFreeOutput({ output, run, overwrite });
  await requireContext([model], settings.sequence, "--train.sequence");
  const routing = await routingOf(options);
  using source = await OpenModel.open(model, routing);
  const completed = await train({
    model: source.mixture,
    parameters: parametersOf(source.mixture, scope),
    data: domains.map((domain) => ({ domain, weight: domain.weight ?? 1 })),
    settings,
    routers: {
      ...(balance.coefficient > 0 && { balance }),
      ...(zLoss > 0 && { zLoss }),
      ...(temperature && { temperature }),
    },
    run,
    title: "finetune",
    config: { scope, ...routing, balance, zLoss, ...(temperature && { temperature }), settings },
    from: { model },
    ...defined({ progress, signal, resume }),
  });
  if (completed)
    await saveModel(source.model, output, { config: source.config, tokenizerFrom: model, ...defined({ overwrite }) });
  return completed;
}

/** What the options say of routing, checked against the mixture. @throws StageError */
async function routingOf({ model, router, expertsPerToken }: FinetuneOptions): Promise<LoadOptions> {
  if (!router && expertsPerToken === undefined) return {};
  const config = await readTransformerConfig(model);
  // A dense model is refused where its mixture is asked for.
  if (config.experts === undefined || config.expertsPerToken === undefined) return {};
  const rule = router ?? config.router ?? { kind: "top-k" };
  const choices = choicesOf(rule, config.experts, expertsPerToken ?? config.expertsPerToken);
  if (choices > config.experts)
    throw new StageError("BTX_OPTIONS", `${choices} experts per token, but ${model} has ${config.experts}`);
  if (expertsPerToken !== undefined && expertsPerToken !== choices)
    throw new StageError(
      "BTX_OPTIONS",
      `${rule.kind} routing visits ${choices} experts per token: leave the number out`,
    );
  return { router: rule, expertsPerToken: choices };
}

function parametersOf(model: Mixtral, scope: FinetuneScope): Parameter[] {
  const wanted = (name: string): boolean => {
    const moe = name.includes(".block_sparse_moe.");
    const router = name.endsWith(".block_sparse_moe.gate");
    return scope === "all" || (scope === "router" ? router : router || !moe);
  };
  return [...model.namedParameters()].flatMap(([name, parameter]) => (wanted(name) ? [parameter] : []));
}
