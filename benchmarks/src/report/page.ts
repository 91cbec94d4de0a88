import type { Report, Section, TableColumn } from "@trefoil/core";
import { isIdle } from "../measure/machine.js";
import { familyTrend, type HistoryEntry } from "../results/history.js";
import type { Measurement, Result } from "../results/schema.js";
import { meanRatios, otherNames } from "./table.js";

const gigabytes = (bytes: number): string => (bytes / 2 ** 30).toFixed(0);

/** The result as a page: ratios at a glance, then every family with its rates, then the history. */
export function resultPage(result: Result, history: readonly HistoryEntry[]): Report {
  const { machine, measurements, peers, failures } = result;
  const usual = machine.limits.find(({ threads }) => threads === machine.threads);
  const families = [...new Set(measurements.map(({ family }) => family))];
  const sections: Section[] = [];
  if (!isIdle(machine)) {
    sections.push({
      kind: "note",
      tone: "warning",
      text: `The load average was ${machine.loadBefore.toFixed(1)} on ${machine.cores} cores when this run began: something else was running. Do not quote these numbers.`,
    });
  }
  sections.push(...ratioSections(measurements, families));
  sections.push(...slowerSections(measurements));
  for (const family of families) sections.push(...familySections(family, measurements));
  sections.push(...historySections(history, machine));
  sections.push({
    kind: "table",
    title: "Peers",
    columns: [{ label: "peer" }, { label: "version" }],
    rows: peers.map((peer) => [peer.name, peer.status === "present" ? peer.version : `missing: ${peer.reason}`]),
  });
  if (failures.length > 0) {
    const rows = failures.map(({ work, side, reason }) => [work, side, reason]);
    sections.push({
      kind: "table",
      title: "Failed",
      columns: [{ label: "work" }, { label: "side" }, { label: "reason" }],
      rows,
    });
  }
  return {
    title: "Trefoil benchmarks",
    subtitle: `${machine.cpu}, ${machine.platform}, Node ${machine.node}, ${result.date.slice(0, 16).replace("T", " ")} UTC, commit ${result.commit ?? "unknown"}`,
    facts: [
      { label: "threads", value: machine.threads },
      { label: "memory", value: gigabytes(machine.memoryBytes), unit: "GiB" },
      { label: "kernels", value: machine.isa },
      ...(usual
        ? [
            { label: `FMA peak (${usual.isa})`, value: usual.fmaGigaflops.median, unit: "GFLOP/s" },
            { label: "copy bandwidth", value: usual.copyGigabytes.median, unit: "GB/s" },
          ]
        : []),
    ],
    sections,
  };
}

function ratioSections(measurements: readonly Measurement[], families: readonly string[]): Section[] {
  const others = otherNames(measurements);
  if (others.length === 0) return [];
  const means = others.map((name) => ({ name, byFamily: meanRatios(measurements, name) }));
  const compared = families.filter((family) => means.some(({ byFamily }) => byFamily.has(family)));
  return [
    {
      kind: "bars",
      title: "Speed over each other side",
      caption:
        "Their time over ours, geometric mean over a family's cases; measured in turns in one run. Above 1 Trefoil is faster.",
      width: "full",
      y: { label: "ratio" },
      categories: compared,
      series: means.map(({ name, byFamily }) => ({
        name,
        values: compared.map((family) => byFamily.get(family) ?? null),
      })),
    },
  ];
}

/** Every case in which another side was faster, the worst first. */
function slowerSections(measurements: readonly Measurement[]): Section[] {
  const pairs = measurements.flatMap(({ family, name, ratios }) =>
    Object.entries(ratios).map(([other, { median, low, high }]) => ({
      work: `${family} ${name}`,
      other,
      median,
      low,
      high,
    })),
  );
  const slower = pairs.filter(({ median }) => median < 1).sort((a, b) => a.median - b.median);
  if (pairs.length === 0) return [];
  return [
    {
      kind: "table",
      title: "Where another side is faster",
      caption: `${slower.length} of ${pairs.length} comparisons. Ratios are their time over ours, round by round.`,
      columns: [{ label: "work" }, { label: "side" }, { label: "ratio" }, { label: "quartiles" }],
      rows: slower.map(({ work, other, median, low, high }) => [
        work,
        other,
        median,
        `${low.toPrecision(3)} to ${high.toPrecision(3)}`,
      ]),
    },
  ];
}

/** More categories than this do not fit under one chart. */
const maxCategories = 8;

function rateCharts(family: string, members: readonly Measurement[]): Section[] {
  const charts: Measurement[][] = [];
  for (const unit of new Set(members.map((each) => each.unit))) {
    const alike = members.filter((each) => each.unit === unit);
    const size = Math.ceil(alike.length / Math.ceil(alike.length / maxCategories));
    for (let i = 0; i < alike.length; i += size) charts.push(alike.slice(i, i + size));
  }
  return charts.map((drawn, i) => {
    const others = otherNames(drawn);
    const rateOf = (each: Measurement, name: string) =>
      each.others.find((other) => other.name === name)?.rate.median ?? null;
    return {
      kind: "bars",
      ...(i === 0 ? { title: family } : {}),
      width: "full",
      y: { label: "rate", unit: drawn[0]!.unit },
      categories: drawn.map(({ name }) => name),
      series: [
        { name: "trefoil", values: drawn.map(({ ours }) => ours.rate.median) },
        ...others.map((name) => ({ name, values: drawn.map((each) => rateOf(each, name)) })),
      ],
    };
  });
}

function familySections(family: string, measurements: readonly Measurement[]): Section[] {
  const members = measurements.filter((each) => each.family === family);
  const others = otherNames(members);
  const withArena = members.some(({ details }) => details.arenaBytes !== undefined);
  const columns: TableColumn[] = [
    { label: "work" },
    { label: "threads" },
    { label: "rate" },
    { label: "quartiles" },
    { label: "unit" },
    { label: "of peak", unit: "%" },
    { label: "kernel", unit: "µs" },
    { label: "call", unit: "µs" },
    ...(withArena ? [{ label: "temporaries", unit: "MiB" }] : []),
    ...others.map((name) => ({ label: `over ${name}` })),
  ];
  return [
    ...rateCharts(family, members),
    {
      kind: "table",
      columns,
      rows: members.map((each) => [
        each.name,
        each.threads,
        each.ours.rate.median,
        `${each.ours.rate.low.toPrecision(3)} to ${each.ours.rate.high.toPrecision(3)}`,
        each.unit,
        each.shareOfPeak === null ? null : 100 * each.shareOfPeak,
        each.ours.seconds.median * 1e6,
        each.ours.callSeconds ? each.ours.callSeconds.median * 1e6 : null,
        ...(withArena ? [(each.details.arenaBytes ?? 0) / 2 ** 20] : []),
        ...others.map((name) => each.ratios[name]?.median ?? null),
      ]),
    },
  ];
}

function historySections(history: readonly HistoryEntry[], machine: Result["machine"]): Section[] {
  const alike = history.filter(({ cpu, threads }) => cpu === machine.cpu && threads === machine.threads);
  if (alike.length < 2) return [];
  const families = [...new Set(alike.flatMap(({ rates }) => Object.keys(rates)))];
  const charts = Math.ceil(families.length / maxCategories);
  const size = Math.ceil(families.length / charts);
  return Array.from({ length: charts }, (_, chart) => ({
    kind: "lines",
    ...(chart === 0
      ? {
          title: "History on this processor",
          caption: `Rates of each family over the first record of its cases, geometric mean: ${alike.map(({ commit }, i) => `${i} is ${commit ?? "unknown"}`).join(", ")}.`,
        }
      : {}),
    width: "full",
    x: { label: "record" },
    y: { label: "rate over the first" },
    series: families.slice(chart * size, (chart + 1) * size).map((family) => ({
      name: family,
      x: alike.map((_, i) => i),
      y: familyTrend(alike, family),
    })),
  }));
}
