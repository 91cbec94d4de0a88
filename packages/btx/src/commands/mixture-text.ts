import { basename, resolve } from "node:path";
import { terminalTable } from "@trefoil/core";
import type { DivergenceReport, MixPlan, MixResult } from "../mix/index.js";
import { formatBytes, formatCount } from "./quantities.js";

/** What a mixture will be, for the terminal. @param folders of the checkpoints */
export function describePlan(plan: MixPlan, folders: readonly string[]): string {
  const { config, parameters, activeParameters, bytes, freeBytes, tensors, weights, arrangement, moeLayers } = plan;
  const mixtures = moeLayers.length < config.layers ? `, of which ${moeLayers.length} mixtures` : "";
  const room = freeBytes === undefined ? "" : ` (${formatBytes(freeBytes)} free)`;
  const lines = [
    `${config.experts} experts, ${config.expertsPerToken} per token: ${formatCount(parameters)} parameters, ${formatCount(activeParameters)} per token`,
    `${tensors.length} tensors, ${formatBytes(bytes)}${room}; hidden ${config.hiddenSize}, ${config.layers} layers${mixtures}, vocabulary ${config.vocabSize}`,
    ...folders.map((path, i) => `  ${path}: ${(weights[i]! * 100).toFixed(1)} % of the averages`),
    `  experts: ${arrangement.experts.map(({ name }) => name).join(", ")}`,
  ];
  return `${lines.join("\n")}\n`;
}

/** The checkpoints' configurations field by field. */
export function describeComparison({ compared }: MixPlan, folders: readonly string[]): string {
  const text = (value: unknown) => (typeof value === "string" ? value : JSON.stringify(value));
  // What is long and the same is shown once.
  const shown = (values: readonly string[], equal: boolean) =>
    values.map((value, i) => (equal && i > 0 && value.length > 16 ? "same" : value));
  const rows = compared.map(({ field, values, equal }) => [
    field,
    ...shown(values.map(text), equal),
    equal ? "equal" : "differs",
  ]);
  return `\n${terminalTable({ columns: ["config.json", ...folders.map(shortName), ""], rows })}`;
}

/** How far the checkpoints are from their average: the largest of all tensors. */
export function describeDivergence({ averaged, experts }: MixResult, folders: readonly string[]): string {
  const row = (kind: string, report: DivergenceReport) => {
    const tensors = Object.values(report);
    return [kind, ...folders.map((_, i) => Math.max(...tensors.map((relative) => relative[i]!)).toFixed(4))];
  };
  const table = terminalTable({
    columns: ["tensors", ...folders.map(shortName)],
    rows: [row("averaged", averaged), row("experts", experts)],
  });
  return `\nLargest distance from the average, ‖θ − θ̄‖ / ‖θ̄‖ (every tensor: btx_mix.json)\n${table}`;
}

const shortName = (path: string): string => basename(resolve(path));
