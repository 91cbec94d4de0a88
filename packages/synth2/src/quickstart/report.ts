import { join } from "node:path";
import { RUN_LAYOUT, readMetricsFile, type Section, writeReport } from "@trefoil/core";
import { ATTRIBUTES, type AttributeAccuracy } from "../world/index.js";
import { type Drawn, pngOf, type Reconstructions } from "./pictures.js";

const shown = 12;

/** `report.html` of a quickstart: losses, reconstructions, codebook, generated pictures, how one came about, faithfulness. */
export async function writeQuickstartReport(
  run: string,
  results: {
    reconstructions: Reconstructions;
    drawn: Drawn;
    runs: Readonly<Record<"tokenizer" | "generator", string>>;
  },
  config: object,
): Promise<void> {
  const { reconstructions, drawn, runs } = results;
  const used = [...reconstructions.usage].sort((a, b) => b - a);
  const total = used.reduce((a, b) => a + b, 0);
  const rank = used.map((_, i) => i + 1);
  await writeReport(join(run, RUN_LAYOUT.report), {
    title: "Synth² quickstart: the image side",
    subtitle: "An image tokenizer and a text-to-image generator, trained on the same few pairs of the built-in world.",
    facts: [
      { label: "reconstructions read as said", value: percent(reconstructions.accuracy.exact) },
      { label: "generated pictures as said", value: percent(drawn.accuracy.exact) },
      { label: "codes used", value: used.filter((count) => count > 0).length },
    ],
    sections: [
      await pairsSection(reconstructions),
      {
        kind: "images",
        title: "Generated from captions that no stage trained on",
        images: await Promise.all(
          drawn.pictures.slice(0, shown).map(async (picture, i) => {
            const caption = drawn.captions[i]!;
            return { png: await pngOf(picture), alt: `Generated for: ${caption}`, label: caption };
          }),
        ),
        size: 144,
      },
      {
        kind: "images",
        title: `Step by step: ${drawn.captions[0]}`,
        caption: "The best guess at all codes after each step of decoding.",
        images: await Promise.all(
          drawn.steps.map(async (picture, i) => ({
            png: await pngOf(picture),
            alt: `After step ${i + 1}`,
            label: String(i + 1),
          })),
        ),
        size: 78,
      },
      accuracyTable({ reconstructions: reconstructions.accuracy, generated: drawn.accuracy }),
      {
        kind: "lines",
        title: "Codebook usage",
        x: { label: "code, by rank" },
        y: { label: "share of all codes", scale: "log" },
        series: [{ name: "share", x: rank, y: used.map((count) => (count > 0 ? count / total : Number.NaN)) }],
      },
      await lossSection("Tokenizer: reconstruction", runs.tokenizer, "psnr", "PSNR", "dB"),
      await lossSection("Generator: likelihood of hidden codes", runs.generator, "likelihood", "loss", "nats per code"),
      { kind: "text", title: "Configuration", text: JSON.stringify(config, null, 2), collapsed: true },
    ],
  });
}

export const percent = (share: number): string => `${(100 * share).toFixed(0)} %`;

async function pairsSection({ originals, made }: Reconstructions): Promise<Section> {
  const images = await Promise.all(
    originals
      .slice(0, shown)
      .flatMap((original, i) => [
        pngOf(original).then((png) => ({ png, alt: `Held-out picture ${i + 1}`, label: "original" })),
        pngOf(made[i]!).then((png) => ({ png, alt: `Reconstruction of picture ${i + 1}`, label: "reconstruction" })),
      ]),
  );
  return { kind: "images", title: "Reconstructions of held-out pictures", images, size: 78 };
}

function accuracyTable(of: Readonly<Record<string, AttributeAccuracy>>): Section {
  const finite = (value: number) => (Number.isFinite(value) ? value : null);
  return {
    kind: "table",
    title: "What a judge without learned parts reads in the pictures, against their captions",
    columns: [{ label: "pictures" }, { label: "everything" }, ...ATTRIBUTES.map((label) => ({ label }))],
    rows: Object.entries(of).map(([name, { exact, accuracy }]) => [
      name,
      exact,
      ...ATTRIBUTES.map((attribute) => finite(accuracy[attribute])),
    ]),
  };
}

async function lossSection(title: string, run: string, field: string, label: string, unit: string): Promise<Section> {
  const records = await readMetricsFile(join(run, RUN_LAYOUT.metrics));
  const points = records.flatMap(({ step, values }) => {
    const value = values[field];
    return typeof value === "number" ? [{ step, value }] : [];
  });
  const [x, y] = [points.map(({ step }) => step), points.map(({ value }) => value)];
  return {
    kind: "lines",
    title,
    x: { label: "step" },
    y: { label, unit },
    series: [{ name: label, x, y, smooth: 0.9 }],
  };
}
