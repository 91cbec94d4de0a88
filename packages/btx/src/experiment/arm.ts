import { Mixtral, type TokenBatch } from "@trefoil/core";
import {
  type EnsembleOptions,
  ensembleNats,
  TfIdf,
  textOfWindows,
  type WindowNats,
  windowNats,
} from "../ensemble/index.js";
import { answerTask, exactMatch, OpenModel, routingTable } from "../stages/index.js";
import { makeTask } from "../tasks/index.js";
import { noCost, totalCost } from "./cost.js";
import { scoreWindows, specialisation, type Windows } from "./measure.js";
import type { Made, SeedModels } from "./models.js";
import { type Arm, armName, type ensembles, heldOutShare, type Regime } from "./plan.js";
import type { ResultRow } from "./results.js";

/** Windows of each domain that tf-idf is made of. */
const tfIdfWindows = 512;

const rules: Record<(typeof ensembles)[number], EnsembleOptions> = {
  "top-1": { rule: "cosine", topK: 1 },
  "top-2": { rule: "cosine", topK: 2 },
  Bayes: { rule: "bayes" },
};

/** Trains what an arm needs and has no result yet, and scores it. */
export async function runArm(arm: Arm, models: SeedModels, windows: Windows): Promise<ResultRow> {
  const key = { arm: armName(arm), seed: models.seed };
  if (arm.kind === "ensemble")
    return { ...key, ...(await runEnsemble(arm.regime, rules[arm.choice], models, windows)) };
  return { ...key, ...(await score(await make(arm, models), models, windows)) };
}

function make(arm: Exclude<Arm, { kind: "ensemble" }>, models: SeedModels): Promise<Made> {
  switch (arm.kind) {
    case "seed":
      return models.base();
    case "expert":
      return models.expert(arm.regime, arm.domain);
    case "average":
      return models.average(arm.regime);
    case "mixture":
      return models.mixture(arm.regime, arm.variant, arm.share);
    default:
      return models.rival(arm.kind, arm.match, arm.regime);
  }
}

async function score({ path, cost }: Made, { domains, settings }: SeedModels, windows: Windows) {
  using opened = await OpenModel.open(path);
  const { model, tokenizer } = opened;
  const scores = await scoreWindows(windows, tokenizer, (batches) => windowNats(model, batches));
  const { problems: count, batch, sequence, windows: number } = settings;
  const answers = count > 0 && (await answerTask(model, tokenizer, makeTask("arithmetic", { count, heldOutShare })));
  const asked = answers && { exactMatch: exactMatch(answers) };
  if (!(model instanceof Mixtral)) return { ...cost, ...scores, ...asked };
  const routing = await routingTable(model, domains, { batch, sequence, windows: number });
  return { ...cost, ...scores, ...asked, specialisation: specialisation(routing), routing };
}

async function runEnsemble(regime: Regime, options: EnsembleOptions, models: SeedModels, windows: Windows) {
  const { domains, settings } = models;
  const experts = await models.experts(regime);
  const members = [...experts, { path: (await models.base()).path, cost: noCost }];
  const context = settings.sequence / 2;
  const opened: OpenModel[] = [];
  try {
    for (const { path } of members) opened.push(await OpenModel.open(path));
    const { tokenizer } = opened[0]!;
    const texts = domains.map(({ train }) =>
      textOfWindows(train, tokenizer, { sequence: context, windows: tfIdfWindows }),
    );
    // The seed was trained on all domains.
    const tfIdf = new TfIdf([...texts, texts.flat()]);
    const natsOf = async (batches: readonly TokenBatch[]): Promise<WindowNats> => {
      const nats: WindowNats[] = [];
      for (const { model } of opened) nats.push(await windowNats(model, batches));
      return ensembleNats(nats, batches, { ...options, context, tokenizer, tfIdf });
    };
    return { ...totalCost(members.map(({ cost }) => cost)), ...(await scoreWindows(windows, tokenizer, natsOf)) };
  } finally {
    for (const each of opened) each[Symbol.dispose]();
  }
}
