import type { Report } from "../../src/train/index.js";

/** Numbers that look random and are always the same. */
function createNoise(): () => number {
  let state = 1;
  return () => {
    state = (state * 1_103_515_245 + 12_345) % 2_147_483_648;
    return state / 2_147_483_648 - 0.5;
  };
}

/** A report like that of a Branch-Train-MiX run, with every kind of section. */
export function sampleReport(): Report {
  const noise = createNoise();
  const steps = Array.from({ length: 600 }, (_, i) => i + 1);
  const curve = (start: number, end: number, jitter: number) =>
    steps.map((step) => end + (start - end) * Math.exp(-step / 110) + jitter * noise());
  const domains = ["TypeScript", "prose", "arithmetic"];
  const experts = ["expert 0", "expert 1", "expert 2", "expert 3"];
  const share = (row: number, layer: number) => {
    const weights = experts.map((_, expert) => 0.4 + Math.abs(noise()) + (expert === row ? 0.5 + 0.3 * layer : 0));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  };
  const words =
    "const total = items\n  .map((item) => item.price * 2)\n  .reduce((a, b) => a + b, 0); // 17 + 25 = 42".match(
      /\s*\S+/g,
    ) as string[];
  return {
    title: "Branch-Train-MiX quickstart",
    subtitle: "btx 0.1.0 · 23 November 2026 · 2 cores · runs/quickstart-2026-11-23-063500",
    facts: [
      { label: "held-out loss", value: 1.874, unit: "bits per byte" },
      { label: "improvement on the seed", value: "−23%" },
      { label: "parameters", value: 1_234_000 },
      { label: "tokens", value: 2_457_600 },
      { label: "throughput", value: 18_400, unit: "tokens/s" },
      { label: "wall time", value: "2m 41s" },
    ],
    sections: [
      {
        kind: "note",
        text: "The mixture beats its experts' plain average on every domain; arithmetic gains the most.",
      },
      {
        kind: "lines",
        title: "Training loss",
        caption: "Experts, each on its own domain. Bold: moving average; faint: every step.",
        x: { label: "step" },
        y: { label: "loss", unit: "nats per token" },
        series: domains.map((name, i) => ({
          name,
          x: steps,
          y: curve(5.4 - 0.3 * i, 2.4 - 0.5 * i, 0.5),
          smooth: 0.95,
        })),
      },
      {
        kind: "lines",
        title: "Gradient norm",
        caption: "Before clipping at 1.",
        x: { label: "step", scale: "log" },
        y: { label: "norm", scale: "log" },
        series: [{ name: "MoE", x: steps, y: steps.map((step) => (8 / step ** 0.6 + 0.05) * (1 + noise())) }],
      },
      {
        kind: "bars",
        title: "Held-out bits per byte",
        caption: "Lower is better.",
        y: { label: "bits per byte" },
        categories: domains,
        series: [
          { name: "seed", values: [2.61, 2.83, 2.2] },
          { name: "expert of the domain", values: [2.02, 2.41, 1.1] },
          { name: "plain average", values: [2.44, 2.7, 1.92] },
          { name: "MoE", values: [1.98, 2.38, 1.07] },
        ],
      },
      {
        kind: "lines",
        title: "Evaluation during router finetuning",
        x: { label: "tokens" },
        y: { label: "bits per byte" },
        series: domains.map((name, i) => ({
          name,
          x: [0, 20_000, 40_000, 60_000, 80_000, 100_000],
          y: [2.4, 2.2, 2.1, 2.05, 2.01, 1.98].map((value) => value - 0.4 * i),
        })),
      },
      {
        kind: "heatmap",
        title: "Routing",
        caption:
          "Share of each domain's tokens that the router sends to each expert, layer by layer. Even shares are 25%.",
        rows: domains,
        columns: experts,
        panels: [0, 1, 2, 3].map((layer) => ({
          title: `layer ${layer}`,
          values: domains.map((_, row) => share(row, layer)),
        })),
        value: { label: "share of tokens", format: "percent" },
        midpoint: 0.25,
      },
      {
        kind: "heatmap",
        title: "Router logits",
        rowLabel: "layer",
        columnLabel: "expert",
        rows: ["0", "1", "2", "3"],
        columns: ["0", "1", "2", "3", "4", "5", "6", "7"],
        panels: [{ values: [0, 1, 2, 3].map(() => Array.from({ length: 8 }, () => Math.abs(noise()) * 3)) }],
        value: { label: "mean of the top logit", unit: "nats" },
        width: "half",
      },
      {
        kind: "table",
        title: "Models",
        columns: [
          { label: "model" },
          { label: "parameters" },
          { label: "bits per byte", best: "lowest" },
          { label: "exact match", unit: "%", best: "highest" },
          { label: "time", unit: "s" },
        ],
        rows: [
          ["seed", 310_000, 2.547, 12.5, 38.2],
          ["plain average", 310_000, 2.353, 31, null],
          ["MoE", 1_234_000, 1.874, 88.5, 61.04],
        ],
        width: "half",
      },
      {
        kind: "tokens",
        title: "Which expert reads what",
        caption: "Layer 3, first choice of the router; the stronger the colour, the surer it was.",
        groups: experts,
        samples: [
          {
            title: "TypeScript with a sum",
            tokens: words.map((text, i) => ({
              text,
              group: i > words.length - 8 ? 2 : i % 5 === 4 ? 3 : 0,
              weight: 0.5 + Math.abs(noise()),
            })),
          },
          {
            title: "Prose",
            tokens: "The quick brown fox jumps over the lazy dog."
              .split(/(?= )/)
              .map((text, i) => ({ text, group: i === 4 ? 0 : 1, weight: 0.9 })),
          },
        ],
      },
      { kind: "note", tone: "warning", text: "The loss of step 214 was 7.3 standard deviations above its neighbours." },
      {
        kind: "text",
        title: "Configuration",
        text: "out: runs/quickstart\ntrain:\n  steps: 600\n  learningRate: 0.0003\n",
        collapsed: false,
      },
    ],
  };
}
