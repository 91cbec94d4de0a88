import { join } from "node:path";
import { ByteTokenizer, RUN_LAYOUT, writeReport } from "@trefoil/core";
import { closeDomains, type DomainSpec, openDomains } from "../domains/index.js";
import {
  continuations,
  lossCurve,
  OpenModel,
  type QuickstartResults,
  quickstartLayout,
  routedSamples,
} from "../stages/index.js";
import { meanOf, routingSection, scoresSections } from "./scores.js";
import { curveSeries } from "./training-report.js";

/**
 * `report.html` of a finished quickstart: scores, loss curves, routing, what tokens went where, what the mixture
 * writes.
 */
export async function writeQuickstartReport(
  run: string,
  results: QuickstartResults,
  config: { data: { domains: Record<string, DomainSpec>; heldOut: number; maxBytes: number; roots: string[] } },
): Promise<void> {
  const at = quickstartLayout(run);
  const names = Object.keys(config.data.domains);
  const runs = [
    ["seed", at.runs.seed],
    ...names.map((name) => [`expert ${name}`, join(at.runs.experts, name)]),
    ["finetune", at.runs.finetune],
  ];
  const curves = await Promise.all(runs.map(async ([name, path]) => curveSeries(name!, await lossCurve(path!))));
  const { samples, written } = await sample(at, config.data);
  const scoreOf = (name: string) => meanOf(results.scores.find(({ model }) => model === name)!.bitsPerByte);
  await writeReport(join(run, RUN_LAYOUT.report), {
    title: "Branch-Train-MiX quickstart",
    subtitle:
      "One seed, one expert per domain, one mixture. Every number is measured on text that no model was trained on.",
    facts: [
      { label: "seed", value: scoreOf("seed"), unit: "bits/byte" },
      { label: "average of all", value: scoreOf("average of all"), unit: "bits/byte" },
      { label: "mixture", value: scoreOf("mixture"), unit: "bits/byte" },
      { label: "mixture, finetuned", value: scoreOf("mixture, finetuned"), unit: "bits/byte" },
    ],
    sections: [
      ...scoresSections(results.scores),
      {
        kind: "lines",
        width: "full",
        title: "Training loss",
        x: { label: "step" },
        y: { label: "loss", unit: "nats per byte" },
        series: curves,
      },
      routingSection("Routing before finetuning", results.routing.before, results.experts),
      routingSection("Routing after finetuning", results.routing.after, results.experts),
      {
        kind: "tokens",
        title: "First choice of expert, last layer, after finetuning",
        caption: "The stronger the colour, the larger the gate.",
        groups: results.experts,
        samples: samples.map(({ domain, tokens }) => ({
          title: domain,
          tokens: tokens.map(({ text, expert, weight }) => ({ text, group: expert, weight })),
        })),
      },
      ...written.map(({ domain, prompt, continuation }) => ({
        kind: "text" as const,
        title: `The finetuned mixture goes on: ${domain}`,
        text: `${prompt}⟶${continuation}`,
      })),
      { kind: "text", title: "Configuration", text: JSON.stringify(config, null, 2), collapsed: true },
    ],
  });
}

async function sample(
  at: ReturnType<typeof quickstartLayout>,
  data: { domains: Record<string, DomainSpec>; heldOut: number; maxBytes: number; roots: string[] },
) {
  const tokenizer = new ByteTokenizer();
  const { domains: sources, heldOut: heldOutShare, maxBytes, roots } = data;
  const domains = await openDomains(sources, {
    tokenizer,
    cache: at.data,
    heldOutShare,
    maxBytes,
    ...(roots.length > 0 && { roots }),
  });
  try {
    using opened = await OpenModel.open(at.finetuned);
    const { mixture } = opened;
    const samples = await routedSamples(opened, domains, { length: 192, layer: mixture.config.layers - 1 });
    const written = await continuations(mixture, tokenizer, domains, { promptTokens: 48, newTokens: 120 });
    return { samples, written };
  } finally {
    closeDomains(domains);
  }
}
