import { documentLayouts, folderField as folder, countField as size, type Tokenizer } from "@trefoil/core";
import { z } from "zod";
import { type DomainTokens, openDomains } from "../domains/index.js";
import type { SeedSizes, TrainSettings } from "../stages/index.js";

/** Fields that several commands share. */

export { outputFields, runOf } from "@trefoil/core";
export { folder, size };

export const steps = (count: number) => size(count, "Optimiser updates.").meta({ unit: "steps" });

/** Sizes of a model that is trained from scratch. */
export const modelFields = (defaults: SeedSizes) =>
  z
    .strictObject({
      hiddenSize: size(defaults.hiddenSize, "Width of the residual stream."),
      intermediateSize: size(defaults.intermediateSize, "Width of the feed-forward layers."),
      layers: size(defaults.layers, "Decoder blocks."),
      heads: size(defaults.heads, "Attention heads; hiddenSize is an even multiple of them."),
      keyValueHeads: size(defaults.keyValueHeads, "Heads of keys and values; heads is a multiple of them."),
      maxPositions: size(defaults.maxPositions, "Longest context.").meta({ unit: "tokens" }),
    })
    .refine(({ hiddenSize, heads }) => hiddenSize % (2 * heads) === 0, {
      path: ["heads"],
      error: "hiddenSize must be an even multiple of heads",
    })
    .refine(({ heads, keyValueHeads }) => heads % keyValueHeads === 0, {
      path: ["keyValueHeads"],
      error: "heads must be a multiple of keyValueHeads",
    });

/** Of a command that makes a model of its own: its rows fit into the context. */
export const fitsContext = (path: readonly string[]) => ({
  path: [...path],
  error: "rows must not be longer than the context, model.maxPositions: lower one or raise the other",
});

const heldOut = z
  .number()
  .gt(0)
  .lt(1)
  .default(0.1)
  .describe("Share of documents held out for evaluation; decided by content, so every command holds out the same.");

const domainSource = z.strictObject({
  paths: z.array(z.string().min(1)).min(1).describe("Files, folders and globs, or one built-in domain."),
  weight: z
    .number()
    .nonnegative()
    .default(1)
    .describe("Relative share of the rows where domains are trained on together; weights need not sum to one."),
  field: z.string().min(1).default("text").describe("Field of a JSON line that holds the text."),
  format: z
    .enum(["text", "chat"])
    .default("text")
    .describe(
      "chat: JSON lines with messages, or prompt and completion; the tokenizer's chat template is applied, and the loss counts only what the assistant says.",
    ),
  unit: z.enum(["file", "paragraph", "line"]).default("file").describe("What one document of a text file is."),
  extensions: z.array(z.string()).default([".txt", ".md", ".jsonl", ".ndjson"]).describe("Files read of a folder."),
});

export const dataFields = z.strictObject({
  domains: z
    .record(
      // It names a folder: ".." would be the output's parent.
      z
        .string()
        .regex(/^\w[\w.-]*$/, "the name of a domain is letters, digits and underscores, then dots and dashes too"),
      z.union([z.string().min(1), domainSource]),
    )
    .default({ code: "@code", prose: "@prose", arithmetic: "@arithmetic" })
    .describe(
      "Text of each domain: a text or JSONL file, a folder or a glob; or @code and @prose (sources and Markdown found under node_modules), @arithmetic, @word-problems, @programs and @facts (generated). In full: paths, weight, field, format, unit, extensions.",
    ),
  heldOut,
  maxBytes: z
    .number()
    .int()
    .positive()
    .default(4_000_000)
    .describe("Text read of each domain, at most.")
    .meta({ unit: "bytes" }),
  roots: z
    .array(z.string())
    .default([])
    .describe("Folders searched by @code and @prose; by default the node_modules folders around."),
  duplicates: z
    .enum(["drop", "keep"])
    .default("drop")
    .describe("What to do with documents of a source whose text occurred before, ignoring white space."),
  nearCopyShare: z
    .number()
    .gt(0)
    .max(1)
    .default(0.5)
    .describe("A document is left out of training when this share of its 13-word runs also occurs in held-out text."),
  cache: folder("Tokenized text is kept here and used again.").default("btx-data"),
});
export type DataConfig = z.output<typeof dataFields>;

/** Opens the domains of a command's configuration. */
export async function openData(data: DataConfig, tokenizer: Tokenizer, signal?: AbortSignal): Promise<DomainTokens[]> {
  const { domains, heldOut: heldOutShare, maxBytes, roots, cache, duplicates, nearCopyShare } = data;
  return await openDomains(domains, {
    tokenizer,
    cache,
    duplicates,
    nearCopyShare,
    heldOutShare,
    maxBytes,
    ...(roots.length > 0 && { roots }),
    ...(signal && { signal }),
  });
}

/** @param defaults of the stage */
export const trainFields = (defaults: { steps: number; learningRate: number }) =>
  z.strictObject({
    steps: steps(defaults.steps),
    batch: z.number().int().positive().default(16).describe("Rows of a batch.").meta({ unit: "rows" }),
    sequence: z.number().int().min(2).default(256).describe("Tokens of a row.").meta({ unit: "tokens" }),
    learningRate: z
      .number()
      .positive()
      .default(defaults.learningRate)
      .describe("Peak learning rate; falls along a cosine to a tenth of that."),
    warmupSteps: z
      .number()
      .int()
      .nonnegative()
      .default(20)
      .describe("Steps over which the rate rises from 0.")
      .meta({ unit: "steps" }),
    weightDecay: z.number().nonnegative().default(0.1).describe("AdamW's decay of matrices; norms are not decayed."),
    clipNorm: z.number().positive().default(1).describe("Gradients with a larger norm are scaled down to it."),
    seed: z
      .number()
      .int()
      .nonnegative()
      .default(0)
      .describe("Order of the data, and initial weights where there are any."),
    checkpointEvery: z
      .number()
      .int()
      .positive()
      .default(100)
      .describe("Steps between checkpoints.")
      .meta({ unit: "steps" }),
    keepCheckpoints: z.number().int().positive().default(2).describe("Newest checkpoints kept."),
    accumulate: z
      .number()
      .int()
      .positive()
      .default(1)
      .describe("Parts in which a batch is computed; their gradients are summed: less memory, the same update.")
      .meta({ unit: "parts" }),
    documents: z
      .enum(documentLayouts)
      .default("joined")
      .describe(
        "joined: rows are stretches of text; apart: attention and positions start anew with each document; packed: as apart, with whole documents.",
      ),
    recompute: z
      .boolean()
      .default(false)
      .describe("Keep only the inputs of blocks for the backward pass and recompute the rest: less memory."),
  }) satisfies z.ZodType<TrainSettings>;
