import { join } from "node:path";
import { type MetricsRecord, type Report, RUN_LAYOUT, readMetricsFile, type Section, writeReport } from "@trefoil/core";
import type { WinTieLose } from "../algorithm/index.js";
import type { Comparison, FrontierPoint, ScoredSample } from "../stages/index.js";

/** One chart per metric, one line per run. */
function metricSection(
  metric: string,
  label: string,
  runs: Readonly<Record<string, readonly MetricsRecord[]>>,
  unit?: string,
): Section[] {
  const series = Object.entries(runs).flatMap(([name, records]) => {
    const points = records.flatMap(({ step, kind, values }) =>
      kind === "train" && values[metric] !== undefined ? [[step, values[metric]] as const] : [],
    );
    if (points.length === 0) return [];
    return [{ name, x: points.map(([step]) => step), y: points.map(([, value]) => value), smooth: 0.7 }];
  });
  if (series.length === 0) return [];
  return [
    {
      kind: "lines",
      title: label,
      x: { label: "step" },
      y: { label: metric, ...(unit !== undefined && { unit }) },
      series,
    },
  ];
}

const configuration = (config: object): Section => ({
  kind: "text",
  title: "Configuration",
  text: JSON.stringify(config, null, 2),
  collapsed: true,
});

/** `report.html` of a run: some of its metrics. */
export async function writeTrainingReport(
  run: string,
  title: string,
  metrics: readonly string[],
  config: object,
): Promise<void> {
  const records = { [title]: await readMetricsFile(join(run, RUN_LAYOUT.metrics)) };
  const sections = metrics.flatMap((metric) => metricSection(metric, metric, records));
  await writeReport(join(run, RUN_LAYOUT.report), { title, sections: [...sections, configuration(config)] });
}

/** What a reader of a PPO run looks at, in this order. */
const ppoCharts: readonly (readonly [metric: string, label: string, unit?: string])[] = [
  ["objective/scores", "Reward"],
  ["gold/mean", "True quality"],
  ["rewards/frac_above_baseline", "Share of rollouts above their own baseline"],
  ["rewards/contrastive/mean", "Reward after the baseline"],
  ["objective/kl", "KL to the SFT policy", "nats per response"],
  ["policy/entropy", "Entropy", "nats per token"],
  ["response/length_mean", "Length of responses", "tokens"],
  ["response/stop_rate", "Share of responses that end"],
  ["policy/clipfrac", "Share of clipped ratios"],
  ["value/explained_variance", "Explained variance of the critic"],
  ["advantages/std", "Spread of advantages"],
  ["policy/approxkl_k3", "Movement per update", "nats per token"],
];

/** The sections of one or several PPO runs. */
export async function ppoSections(runs: Readonly<Record<string, string>>): Promise<Section[]> {
  const entries = Object.entries(runs).map(
    async ([name, run]) => [name, await readMetricsFile(join(run, RUN_LAYOUT.metrics))] as const,
  );
  const records = Object.fromEntries(await Promise.all(entries));
  const contrast = Object.values(records)
    .map((list) => list.at(-1)?.values)
    .find((values) => values?.["contrast/rho"] !== undefined);
  const sections: Section[] = ppoCharts.flatMap(([metric, label, unit]) => metricSection(metric, label, records, unit));
  if (contrast) {
    const text =
      `ρ, the between-prompt over the within-prompt variance of the SFT policy's rewards, is ${contrast["contrast/rho"]!.toFixed(3)}. ` +
      `Contrast should change the variance of rewards by a factor ${contrast["contrast/predicted_variance_ratio"]!.toFixed(3)}.`;
    sections.unshift({ kind: "note", title: "What contrast can remove", text });
  }
  return sections;
}

/** What baselines cost inside PPO: the share of an iteration's time in which they are looked up, subtracted and shaped. */
export async function baselineCostText(run: string): Promise<string> {
  const train = (await readMetricsFile(join(run, RUN_LAYOUT.metrics))).filter(({ kind }) => kind === "train");
  const spent = (part: string) => train.reduce((sum, { values }) => sum + (values[`time/${part}`] ?? 0), 0);
  const whole = ["rollout", "score", "baseline", "train"].reduce((sum, part) => sum + spent(part), 0);
  const ms = (1000 * spent("baseline")) / train.length;
  return `baselines took ${ms.toFixed(3)} ms of an iteration of ${((1000 * whole) / train.length).toFixed(0)} ms: ${((100 * spent("baseline")) / whole).toFixed(3)} %`;
}

/** Responses of several policies to the same prompts, side by side. */
export function samplesSection(samples: Readonly<Record<string, readonly ScoredSample[]>>, shown = 8): Section[] {
  const names = Object.keys(samples);
  const first = samples[names[0] ?? ""];
  if (!first || first.length === 0) return [];
  return [
    {
      kind: "table",
      title: "Responses",
      columns: [{ label: "prompt" }, ...names.map((label) => ({ label }))],
      rows: first
        .slice(0, shown)
        .map(({ promptText }, i) => [promptText, ...names.map((name) => samples[name]![i]!.responseText)]),
    },
  ];
}

export async function writePpoReport(
  run: string,
  title: string,
  runs: Readonly<Record<string, string>>,
  samples: Readonly<Record<string, readonly ScoredSample[]>>,
  config: object,
): Promise<void> {
  const sections = [...(await ppoSections(runs)), ...samplesSection(samples), configuration(config)];
  await writeReport(join(run, RUN_LAYOUT.report), { title, sections });
}

const percent = (value: number): string => `${(100 * value).toFixed(1)} %`;

/** `win 48, tie 20, lose 32: 58.0 % (48.2 % to 67.2 %), Δ +0.160` */
export function outcomeText({ win, tie, lose, winRate, interval, delta }: WinTieLose): string {
  const sign = delta >= 0 ? "+" : "";
  return `win ${win}, tie ${tie}, lose ${lose}: ${percent(winRate)} (95 %: ${percent(interval[0])} to ${percent(interval[1])}), Δ ${sign}${delta.toFixed(3)}`;
}

export function comparisonText({ all, lengthMatched, meanLength, meanReward, difference }: Comparison): string {
  const lines = [
    `all pairs       ${outcomeText(all)}`,
    `length-matched  ${outcomeText(lengthMatched)}`,
    `length          ${meanLength.policy.toFixed(1)} against ${meanLength.against.toFixed(1)} tokens`,
  ];
  if (meanReward)
    lines.push(`reward          ${meanReward.policy.toFixed(4)} against ${meanReward.against.toFixed(4)}`);
  if (difference) {
    const [low, high] = difference.interval;
    lines.push(
      `difference      ${difference.mean.toFixed(4)} (95 %: ${low.toFixed(4)} to ${high.toFixed(4)}), p ${difference.p.toPrecision(2)}`,
    );
  }
  return `${lines.join("\n")}\n`;
}

export function comparisonReport(
  comparison: Comparison,
  names: { policy: string; against: string },
  frontier?: readonly FrontierPoint[],
): Report {
  const row = (name: string, { win, tie, lose, winRate, interval, delta }: WinTieLose) => [
    name,
    win,
    tie,
    lose,
    winRate,
    interval[0],
    interval[1],
    delta,
  ];
  const sections: Section[] = [
    {
      kind: "table",
      title: "Win, tie, lose",
      columns: ["pairs", "win", "tie", "lose", "win rate", "95 % from", "to", "Δ"].map((label) => ({ label })),
      rows: [row("all", comparison.all), row("length-matched", comparison.lengthMatched)],
    },
    {
      kind: "table",
      title: "Responses",
      columns: ["prompt", names.policy, names.against, "better"].map((label) => ({ label })),
      rows: comparison.pairs
        .slice(0, 20)
        .map(({ prompt, policy, against, outcome }) => [
          prompt,
          policy,
          against,
          outcome > 0 ? "first" : outcome < 0 ? "second" : "tie",
        ]),
    },
  ];
  if (frontier) {
    const series = [
      {
        name: "checkpoints",
        x: frontier.map(({ kl }) => Math.sqrt(Math.max(0, kl))),
        y: frontier.map(({ reward }) => reward),
      },
    ];
    sections.push({
      kind: "lines",
      title: "Reward against KL",
      x: { label: "√KL", unit: "√nats" },
      y: { label: "reward" },
      series,
    });
  }
  return { title: `${names.policy} against ${names.against}`, sections };
}
