import { join } from "node:path";
import { RUN_LAYOUT, readMetricsFile, type Section, writeReport } from "@trefoil/core";
import { type CaptionSetReport, captionSetRow, captionSetTable } from "../captions/index.js";
import type { CaptionerScores, PictureUse } from "../vlm/index.js";
import { ATTRIBUTES, type AttributeAccuracy } from "../world/index.js";
import { type Drawn, pngOf, type Reconstructions } from "./pictures.js";

const shown = 12;

/** A vision-language model, measured on pictures that it has not seen. */
export interface ArmResult {
  arm: string;
  /** By kind of pictures. */
  scores: Readonly<Record<string, CaptionerScores>>;
  use: PictureUse;
  /** Of the pictures that `reconstructions` shows. */
  captions: readonly string[];
}

/**
 * `report.html` of a quickstart: reconstructions, generated pictures and how one came about, captions beside pictures, CIDEr of the arms,
 * diversity of the written captions, faithfulness, codebook, losses.
 */
export async function writeQuickstartReport(
  run: string,
  results: {
    reconstructions: Reconstructions;
    drawn: Drawn;
    arms: readonly ArmResult[];
    /** Of the captions of the synthetic pairs, beside the human ones. */
    diversity: CaptionSetReport;
    runs: Readonly<Record<"tokenizer" | "generator" | "human" | "genpair", string>>;
  },
  config: object,
): Promise<void> {
  const { reconstructions, drawn, arms, diversity, runs } = results;
  const used = [...reconstructions.usage].sort((a, b) => b - a);
  const total = used.reduce((a, b) => a + b, 0);
  const rank = used.map((_, i) => i + 1);
  await writeReport(join(run, RUN_LAYOUT.report), {
    title: "Synth² quickstart",
    subtitle:
      "An image tokenizer, a text-to-image generator, a language model and two vision-language models, trained on the same few pairs of the built-in world.",
    facts: [
      { label: "reconstructions read as said", value: percent(reconstructions.accuracy.exact) },
      { label: "generated pictures as said", value: percent(drawn.accuracy.exact) },
      { label: "codes used", value: used.filter((count) => count > 0).length },
      ...arms.map(({ arm, scores }) => ({
        label: `CIDEr × 100, ${arm}`,
        value: (100 * Object.values(scores)[0]!.cider).toFixed(1),
      })),
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
      await captionsSection(reconstructions, arms),
      ...armSections(arms),
      {
        kind: "table",
        ...captionSetTable,
        rows: [
          ["human", ...captionSetRow(diversity, "human").map((value) => value ?? null)],
          ["written, of classes drawn alike", ...captionSetRow(diversity, "written").map((value) => value ?? null)],
        ],
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
      await lossSection("Vision-language model, human pairs", runs.human, "loss", "loss", "nats per token"),
      await lossSection("Vision-language model, with GenPair", runs.genpair, "loss", "loss", "nats per token"),
      { kind: "text", title: "Configuration", text: JSON.stringify(config, null, 2), collapsed: true },
    ],
  });
}

async function captionsSection({ originals }: Reconstructions, arms: readonly ArmResult[]): Promise<Section> {
  const images = await Promise.all(
    originals.slice(0, shown).map(async (original, i) => ({
      png: await pngOf(original),
      alt: `Test picture ${i + 1}`,
      label: arms.map(({ arm, captions }) => `${arm}: ${captions[i]}`).join("; "),
    })),
  );
  return { kind: "images", title: "Captions of test pictures", images, size: 144 };
}

function armSections(arms: readonly ArmResult[]): Section[] {
  const kinds = Object.keys(arms[0]!.scores);
  return [
    {
      kind: "bars",
      title: "CIDEr of captions of test pictures",
      caption: "One seed and few pictures: differences between the arms are within chance.",
      y: { label: "CIDEr × 100" },
      categories: kinds,
      series: arms.map(({ arm, scores }) => ({ name: arm, values: kinds.map((kind) => 100 * scores[kind]!.cider) })),
    },
    {
      kind: "table",
      title: "What captions say",
      caption:
        "Share of captions of which everything is true, and cross-entropy of human captions beside their own picture and beside another: a model that does not look has the same.",
      columns: ["arm", ...kinds.map((kind) => `true, ${kind}`), "nats, own picture", "nats, another"].map((label) => ({
        label,
      })),
      rows: arms.map(({ arm, scores, use }) => [
        arm,
        ...kinds.map((kind) => scores[kind]!.attributes?.exact ?? null),
        use.own,
        use.other,
      ]),
    },
  ];
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
