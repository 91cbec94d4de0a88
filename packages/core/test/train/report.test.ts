import { createHash } from "node:crypto";
import { mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { type Report, renderReport, type Section, writeReport } from "../../src/train/index.js";
import { extent, formatValue, linearScale, logScale } from "../../src/train/report/scales.js";
import { sampleReport } from "./sample-report.js";

const HOSTILE = `</script><script>alert(1)</script><img src=x onerror="alert('2')">&amp;\u0000`;
const ESCAPED =
  "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;2&#39;)&quot;&gt;&amp;amp;\uFFFD";

function render(...sections: Section[]): string {
  return renderReport({ title: "T", sections });
}

function attributes(page: string, pattern: RegExp): string[] {
  return [...page.matchAll(pattern)].map((match) => match[1] as string);
}

/** Every string of a report replaced by `text`, except those that choose between kinds. */
function poison<T>(value: T, text: string, key = ""): T {
  const choices = ["kind", "width", "scale", "tone", "format", "best"];
  if (typeof value === "string") return (choices.includes(key) ? value : text) as T;
  if (Array.isArray(value)) return value.map((item) => poison(item, text, key)) as T;
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, poison(item, text, name)])) as T;
}

describe("a page", () => {
  test("escapes every string of every section, wherever it ends up", () => {
    const page = renderReport(poison(sampleReport(), HOSTILE));
    // Our own script, and the data of the line charts.
    expect(page.match(/<script/g)).toHaveLength(1 + 3);
    expect(page).not.toContain("<img");
    expect(page).not.toContain("\u0000");
    expect(page).toContain(`<h1>${ESCAPED}</h1>`);
    expect(page).toContain(`<pre>${ESCAPED}</pre>`);
    for (const json of attributes(page, /<script type="application\/json"[^>]*>(.*?)<\/script>/gs)) {
      expect((JSON.parse(json) as { x: string }).x).toBe(HOSTILE);
    }
  });

  test("lets only its own script run and refers to nothing outside", () => {
    const page = renderReport(sampleReport());
    const script = page.match(/<script>(.*?)<\/script>/s)?.[1] as string;
    const hash = createHash("sha256").update(script).digest("base64");
    expect(page).toContain(
      `default-src &#39;none&#39;; style-src &#39;unsafe-inline&#39;; img-src data:; script-src &#39;sha256-${hash}&#39;`,
    );
    expect(page.replaceAll("http://www.w3.org/2000/svg", "")).not.toMatch(/https?:|url\(|@import|src=|href=/);
  });

  test("is the same for the same report, and written whole", async () => {
    const folder = await mkdtemp(path.join(tmpdir(), "trefoil-report-"));
    await writeReport(path.join(folder, "report.html"), sampleReport());
    expect(await readFile(path.join(folder, "report.html"), "utf8")).toBe(renderReport(sampleReport()));
    expect(await readdir(folder)).toEqual(["report.html"]);
    await rm(folder, { recursive: true });
  });

  test("has balanced elements", () => {
    const page = renderReport(sampleReport()).replace(/<script[\s\S]*?<\/script>|<style>[\s\S]*?<\/style>/g, "");
    const open: string[] = [];
    for (const [, closing, name, , selfClosing] of page.matchAll(/<(\/?)([a-z][a-z0-9]*)((?:\s[^<>]*?)?)(\/?)>/g)) {
      if (closing === "/") expect(open.pop()).toBe(name);
      else if (selfClosing !== "/" && name !== "meta") open.push(name as string);
    }
    expect(open).toEqual([]);
  });
});

describe("lines", () => {
  const axes = { x: { label: "step" }, y: { label: "loss", unit: "nats" } } as const;

  test("stand where the axes say", () => {
    const page = render({ kind: "lines", ...axes, series: [{ name: "a", x: [0, 50, 100], y: [0, 5, 10] }] });
    const [line] = attributes(page, /<path class="line"[^>]* d="([^"]*)"/g);
    // Plot of 510 x 270: x from 50 to 496; y from 232 down to 24 for 0 to 10.6, the top margin being 6 %.
    const y = (value: number) => Math.round((232 - (value / 10.6) * 208) * 10) / 10;
    expect(line).toBe(`M50,${y(0)}L273,${y(5)}L496,${y(10)}`);
    expect(page).toContain(">loss (nats)</text>");
    expect(attributes(page, /<text class="tick"[^>]*text-anchor="end">([^<]*)</g)).toEqual([
      "0",
      "2",
      "4",
      "6",
      "8",
      "10",
    ]);
  });

  test("break at values that are not finite, or not positive on a logarithmic axis", () => {
    const y = [1, Number.NaN, 2, 3, Number.POSITIVE_INFINITY, 4, 5];
    const broken = render({ kind: "lines", ...axes, series: [{ name: "a", x: [1, 2, 3, 4, 5, 6, 7], y }] });
    expect(attributes(broken, /<path class="line"[^>]* d="([^"]*)"/g)[0]?.match(/M/g)).toHaveLength(3);
    const log = render({
      kind: "lines",
      ...axes,
      y: { label: "loss", scale: "log" },
      series: [{ name: "a", x: [1, 2, 3], y: [10, 0, 1000] }],
    });
    expect(attributes(log, /<path class="line"[^>]* d="([^"]*)"/g)[0]).toMatch(/^M[\d.,]+M[\d.,]+$/);
    expect(log).not.toContain("NaN");
  });

  test("of many points keep every spike", () => {
    const y = Array.from({ length: 50_000 }, (_, i) => (i === 31_234 ? 9 : i % 2));
    const page = render({ kind: "lines", ...axes, series: [{ name: "a", x: y.map((_, i) => i), y }] });
    expect(page.length).toBeLessThan(250_000);
    const data = JSON.parse(
      attributes(page, /<script type="application\/json"[^>]*>(.*?)<\/script>/gs)[0] as string,
    ) as {
      series: { points: [number, number, string, string][] }[];
    };
    expect(data.series[0]?.points).toContainEqual([expect.any(Number), expect.any(Number), "31,234", "9"]);
  });

  test("smoothing is an exponential average without a start at zero", () => {
    const page = render({ kind: "lines", ...axes, series: [{ name: "a", x: [1, 2, 3], y: [4, 8, 8], smooth: 0.5 }] });
    const data = JSON.parse(
      attributes(page, /<script type="application\/json"[^>]*>(.*?)<\/script>/gs)[0] as string,
    ) as {
      series: { points: string[][] }[];
    };
    // Weights 1; 1:2; 1:2:4.
    expect(data.series[0]?.points.map((point) => point[3])).toEqual(["4", "6.667", "7.429"]);
    expect(data.series[0]?.points.map((point) => point[4])).toEqual([undefined, "8", "8"]);
    expect(page).toContain('class="line faint"');
  });

  test("without a finite value say so", () => {
    expect(render({ kind: "lines", ...axes, series: [{ name: "a", x: [1], y: [Number.NaN] }] })).toContain(
      "No finite values",
    );
    expect(render({ kind: "lines", ...axes, series: [] })).toContain("No finite values");
  });
});

test("bars start at zero, downwards too, and have their length in proportion", () => {
  const series = [{ name: "a", values: [4, -2, null] }];
  const page = render({ kind: "bars", y: { label: "gain" }, categories: ["p", "q", "r"], series });
  const bars = [...page.matchAll(/<rect class="bar"[^>]* y="([\d.]+)"[^>]* height="([\d.]+)"/g)].map(
    ([, y, height]) => ({
      top: Number(y),
      bottom: Number(y) + Number(height),
    }),
  );
  expect(bars).toHaveLength(2);
  const [up, down] = bars as [{ top: number; bottom: number }, { top: number; bottom: number }];
  expect(up.bottom).toBeCloseTo(down.top, 0);
  expect((up.bottom - up.top) / (down.bottom - down.top)).toBeCloseTo(2, 1);
  expect(attributes(page, /data-tip="([pqr]: [^"]*)"/g)).toEqual(["p: 4", "q: -2"]);
});

describe("heat maps", () => {
  const base = { kind: "heatmap", rows: ["r"], columns: ["a", "b", "c"], value: { label: "v" } } as const;
  const fills = (page: string) => attributes(page, /class="cell" style="fill:([^"]*)"/g);

  test("mix from one end of the scale to the other", () => {
    expect(fills(render({ ...base, panels: [{ values: [[0, 0.5, 2]] }] }))).toEqual(
      [0, 25, 100].map((share) => `color-mix(in oklab, var(--heat-high) ${share}%, var(--heat-low))`),
    );
  });

  test("use two hues about a midpoint, equally strong at equal distance", () => {
    const page = render({ ...base, midpoint: 1, panels: [{ values: [[0, 1, 2]] }] });
    expect(fills(page)).toEqual([
      "color-mix(in oklab, var(--heat-below) 100%, var(--heat-middle))",
      "color-mix(in oklab, var(--heat-high) 0%, var(--heat-middle))",
      "color-mix(in oklab, var(--heat-high) 100%, var(--heat-middle))",
    ]);
  });

  test("leave out missing cells and show percentages", () => {
    const page = render({
      ...base,
      value: { label: "share", format: "percent" },
      panels: [{ values: [[0.123, Number.NaN]] }],
    });
    expect(attributes(page, /class="cell-value[^>]*>([^<]*)</g)).toEqual(["12%"]);
    expect(page).toContain('data-tip="r · a: 12.3%"');
  });
});

test("tables mark the best number and show a dash for nothing", () => {
  const report: Report = {
    title: "T",
    sections: [
      {
        kind: "table",
        columns: [{ label: "model" }, { label: "loss", best: "lowest" }, { label: "match", best: "highest" }],
        rows: [
          ["a", 2.5, null],
          ["b", 1.23456, 3],
          ["c", 2, 10],
        ],
      },
    ],
  };
  const page = renderReport(report);
  expect(attributes(page, /<td class="number best">([^<]*)</g)).toEqual(["1.235", "10"]);
  expect(page).toContain('<td class="number">–</td>');
});

test("tokens keep their text and their line breaks, with the group's name to hover", () => {
  const tokens = [
    { text: "a <b>\n", group: 1, weight: 0.62 },
    { text: "c", group: 9 },
  ];
  const page = render({ kind: "tokens", groups: ["zero", "one"], samples: [{ tokens }] });
  expect(page).toMatch(/data-tip="one, 62%">a &lt;b&gt;↵\n<\/span>/);
  expect(page).toContain('data-tip="group 9">c</span>');
});

test("images are part of the page, with their text escaped", () => {
  const png = Uint8Array.of(137, 80, 78, 71, 0, 255);
  const page = render({ kind: "images", size: 64, images: [{ png, alt: '"<b>', label: "a <red> circle" }] });
  const [data] = attributes(page, /<img src="data:image\/png;base64,([^"]*)" alt="&quot;&lt;b&gt;" width="64">/g);
  expect(Uint8Array.from(Buffer.from(data!, "base64"))).toEqual(png);
  expect(page).toContain("<figcaption>a &lt;red&gt; circle</figcaption>");
  expect(page).toContain("img-src data:;");
});

describe("scales", () => {
  test("choose round ticks inside the domain", () => {
    const scale = linearScale([0.13, 0.98], [0, 100], 5);
    expect(scale.ticks.map(scale.format)).toEqual(["0.2", "0.4", "0.6", "0.8"]);
    expect(linearScale([0, 100_000], [0, 1], 4).ticks.map(linearScale([0, 100_000], [0, 1], 4).format)).toEqual([
      "0",
      "25k",
      "50k",
      "75k",
      "100k",
    ]);
    const quarter = linearScale([1, 2], [0, 1], 4);
    expect(quarter.ticks.map(quarter.format)).toEqual(["1.00", "1.25", "1.50", "1.75", "2.00"]);
    expect([scale(0.13), scale(0.98), scale(0.555)].map(Math.round)).toEqual([0, 100, 50]);
  });

  test("survive a domain of one value", () => {
    expect(linearScale([3, 3], [0, 10], 5)(3)).toBeCloseTo(5);
    expect(linearScale([0, 0], [0, 10], 5)(0)).toBeCloseTo(5);
    // Counting ticks of 1e-17 up from 1 would never end.
    const rounding = linearScale([1, 1 + Number.EPSILON], [0, 10], 5);
    expect(rounding.ticks.length).toBeLessThan(10);
    expect(rounding(1)).toBeCloseTo(5);
    expect(logScale([1, 1 + Number.EPSILON], [0, 10], 5)(1)).toBeCloseTo(5);
    expect(logScale([3, 3], [0, 10], 5)(3)).toBeCloseTo(5);
  });

  test("logarithmic: equal ratios take equal distances", () => {
    const scale = logScale([0.01, 100], [0, 4], 5);
    expect([0.01, 0.1, 1, 10, 100].map(scale).map((x) => Math.round(x * 1e9) / 1e9)).toEqual([0, 1, 2, 3, 4]);
    expect(scale.ticks.map(scale.format)).toEqual(["0.01", "0.1", "1", "10", "100"]);
  });

  test("values are shown with four digits", () => {
    expect([0, 2.34567, 1234.5, 12_345, 999_999, 1e6, 3e-4, -0.05].map(formatValue)).toEqual([
      "0",
      "2.346",
      "1,235",
      "12.35k",
      "1000k",
      "1M",
      "3e-4",
      "-0.05",
    ]);
    expect(extent([3, Number.NaN, -1, Number.POSITIVE_INFINITY])).toEqual([-1, 3]);
    expect(extent([])).toBeUndefined();
  });
});
