import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { defineCommand, RUN_LAYOUT, terminalTable, writeFileAtomic, writeReport } from "@trefoil/core";
import { z } from "zod";
import { closeDomains } from "../domains/index.js";
import { requireContext } from "../stages/context.js";
import {
  type LayerRouting,
  OpenModel,
  routedSamples,
  routingTable,
  StageError,
  summarizeRouting,
} from "../stages/index.js";
import { dataFields, folder, openData, size } from "./fields.js";
import { routingSection } from "./scores.js";

export const routingCommand = defineCommand({
  name: "routing",
  summary: "How the routers of a mixture route text: load, dead experts, domains, tokens.",
  description:
    "Takes any Mixtral folder. Routes the held-out part of each domain and writes report.html and routing.json.",
  examples: [
    "btx routing --model models/finetuned --report runs/routing",
    "btx routing --model mixtral --data.domains.notes ./notes --report runs/notes",
  ],
  schema: z.strictObject({
    model: folder("Folder of the mixture."),
    report: folder("Folder for report.html and routing.json."),
    names: z
      .array(z.string())
      .default([])
      .describe("Names of the experts, in their order; by default those of the mixture, else numbers."),
    data: dataFields.prefault({}),
    windows: size(64, "Windows of held-out text of each domain.").meta({ unit: "windows" }),
    sequence: z.number().int().min(2).default(256).describe("Tokens of a window.").meta({ unit: "tokens" }),
    batch: size(16, "Windows routed at a time.").meta({ unit: "rows" }),
    tokens: size(192, "Tokens of each domain shown in colour, for every layer.").meta({ unit: "tokens" }),
  }),
  run: async (config, { progress, signal, stdout }) => {
    const { model, report, data, tokens } = config;
    await requireContext([model], config.sequence);
    using opened = await OpenModel.open(model);
    const { experts, moeLayers, layers: count } = opened.mixture.config;
    const domains = await openData(data, opened.tokenizer, signal);
    try {
      const table = await routingTable(opened.mixture, domains, config, signal);
      const layers = summarizeRouting(table);
      const layerNames = (moeLayers ?? Array.from({ length: count }, (_, layer) => layer)).map(
        (layer) => `layer ${layer}`,
      );
      const given = config.names.length > 0 ? config.names : (opened.config.expertNames ?? []);
      const names = expertNames(given, experts);
      stdout.write(summaryTable(layers, layerNames, names));
      const rows = layers.map(({ evenness, domainInformation, dead }, layer) => [
        layerNames[layer]!,
        evenness,
        domainInformation,
        dead.map((expert) => names[expert]).join(", ") || null,
      ]);
      const samples = [];
      for (let layer = 0; layer < layers.length; layer++) {
        signal.throwIfAborted();
        samples.push(await routedSamples(opened, domains, { length: tokens, layer }));
      }
      await mkdir(report, { recursive: true });
      const json = { model, experts: names, layers: layerNames, domains: table, summary: layers };
      await writeFileAtomic(join(report, "routing.json"), `${JSON.stringify(json, null, 2)}\n`);
      await writeReport(join(report, RUN_LAYOUT.report), {
        title: "btx routing",
        subtitle: model,
        sections: [
          {
            kind: "table",
            title: "Layers",
            caption:
              "Evenness: entropy of the load over that of an even one. Domain information: what a choice tells about its token's domain. Dead: chosen by no token.",
            columns: [
              { label: "layer" },
              { label: "evenness" },
              { label: "domain information", unit: "bits" },
              { label: "dead experts" },
            ],
            rows,
          },
          {
            kind: "heatmap",
            title: "Load",
            caption: "Share of the choices over all domains, each counted the same.",
            rows: layerNames,
            columns: names,
            rowLabel: "layer",
            columnLabel: "expert",
            panels: [{ values: layers.map(({ load }) => load) }],
            value: { label: "share of choices", format: "percent" },
            range: [0, 1],
            midpoint: 1 / experts,
          },
          routingSection("Domains and experts", table, names),
          ...samples.map((sample, layer) => ({
            kind: "tokens" as const,
            title: `First choice of expert, ${layerNames[layer]}`,
            caption: "The stronger the colour, the larger the gate.",
            groups: names,
            samples: sample.map(({ domain, tokens: routed }) => ({
              title: domain,
              tokens: routed.map(({ text, expert, weight }) => ({ text, group: expert, weight })),
            })),
          })),
        ],
      });
      progress.log(`The report is ${join(report, RUN_LAYOUT.report)}.`);
    } finally {
      closeDomains(domains);
    }
  },
});

function summaryTable(layers: readonly LayerRouting[], names: readonly string[], experts: readonly string[]): string {
  const rows = layers.map(({ load, evenness, domainInformation, dead }, layer) => [
    names[layer]!,
    ...load.map((share) => `${(share * 100).toFixed(1)} %`),
    evenness.toFixed(3),
    `${domainInformation.toFixed(3)} bits`,
    String(dead.length),
  ]);
  return terminalTable({ columns: ["load", ...experts, "evenness", "domain information", "dead"], rows });
}

/** Names as given, else numbers. @throws StageError when they are not as many as the experts */
function expertNames(given: readonly string[], count: number): readonly string[] {
  if (given.length === 0) return Array.from({ length: count }, (_, expert) => `expert ${expert}`);
  if (given.length === count) return given;
  throw new StageError("BTX_OPTIONS", `${given.length} names for ${count} experts: name each, or none`);
}
