import { geometricMean, type Spread } from "../measure/statistics.js";
import type { Measurement, PeerRecord, Result } from "../results/schema.js";

const largeSteps = [
  [1e9, "G"],
  [1e6, "M"],
  [1e4, "k"],
] as const;

/** Three significant digits; from ten thousand on with k, M or G. */
export function compact(value: number): string {
  const [limit, suffix] = largeSteps.find(([limit]) => Math.abs(value) >= limit) ?? [1, ""];
  const scaled = value / (suffix === "k" ? 1000 : limit);
  return `${Math.abs(scaled) >= 100 ? scaled.toFixed(0) : scaled.toPrecision(3)}${suffix}`;
}

/** `1.23 ms`. */
function duration(seconds: number): string {
  if (seconds >= 1) return `${compact(seconds)} s`;
  if (seconds >= 1e-3) return `${compact(seconds * 1e3)} ms`;
  return seconds >= 1e-6 ? `${compact(seconds * 1e6)} µs` : `${compact(seconds * 1e9)} ns`;
}

/** `12.3 ±4%`: the median, and half the distance between the quartiles. */
const spreadText = ({ median, low, high }: Spread): string =>
  `${compact(median)} ±${((50 * (high - low)) / median).toFixed(0)}%`;

const percent = (share: number | null): string => (share === null ? "" : `${(100 * share).toFixed(0)}%`);

/** Rows of text with columns as wide as their widest cell; the first is left-aligned. */
export function textTable(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]!.map((_, column) => Math.max(...rows.map((row) => row[column]!.length)));
  return rows
    .map((row) =>
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

/** Names of the other sides, in the order in which they first appear. */
export const otherNames = (measurements: readonly Measurement[]): string[] => [
  ...new Set(measurements.flatMap(({ others }) => others.map(({ name }) => name))),
];

/** Geometric means of the ratios to `other` by family, and over all. */
export function meanRatios(measurements: readonly Measurement[], other: string): Map<string, number> {
  const byFamily = new Map<string, number[]>();
  for (const { family, ratios } of measurements) {
    const ratio = ratios[other];
    if (ratio) byFamily.set(family, [...(byFamily.get(family) ?? []), ratio.median]);
  }
  return new Map([...byFamily].map(([family, values]) => [family, geometricMean(values)]));
}

/** `blis 0.9.0`, or `pytorch missing: name a Python …`. */
export const peerText = (peer: PeerRecord): string =>
  peer.status === "present" ? `${peer.name} ${peer.version}` : `${peer.name} missing: ${peer.reason.split("\n")[0]}`;

/** The result as text: one table for each family, ratios above 1 where we are faster; then the peers. */
export function renderTable({ measurements, peers }: Result): string {
  const families = [...new Set(measurements.map(({ family }) => family))];
  const blocks = families.map((family) => {
    const members = measurements.filter((each) => each.family === family);
    const others = otherNames(members);
    const head = [family, members[0]!.unit, "of peak", "call", ...others.map((name) => `/ ${name}`)];
    const rows = members.map(({ name, threads, ours, shareOfPeak, ratios }) => [
      `  ${name}${threads === members[0]!.threads ? "" : ` (${threads} threads)`}`,
      spreadText(ours.rate),
      percent(shareOfPeak),
      duration((ours.callSeconds ?? ours.seconds).median),
      ...others.map((other) => (ratios[other] ? `${ratios[other].median.toFixed(2)}x` : "")),
    ]);
    const means = others.map((other) => {
      const mean = meanRatios(members, other).get(family);
      return mean === undefined ? "" : `${mean.toFixed(2)}x`;
    });
    const scored = members.flatMap(({ name, ours, others }) => {
      if (!ours.score) return [];
      const sides = [ours, ...others].flatMap(({ name: side, score }) =>
        score ? [`${side} ${score.mean.toFixed(3)} ± ${score.error.toFixed(3)}`] : [],
      );
      return [`  ${name}: score in repetitions ${ours.score.from} to ${ours.score.to}: ${sides.join(", ")}`];
    });
    const total = members.length > 1 && others.length > 0 ? [["  geometric mean", "", "", "", ...means]] : [];
    return [textTable([head, ...rows, ...total]), ...scored].join("\n");
  });
  return `${[...blocks, peers.map(peerText).join("\n")].join("\n\n")}\n`;
}
