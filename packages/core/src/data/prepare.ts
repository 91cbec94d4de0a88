import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import { z } from "zod";
import { writeFileAtomic } from "../io/atomic-file.js";
import type { Tokenizer } from "../text/tokenizer.js";
import { ChatEncoder } from "./chat.js";
import { readDocuments, type TextDocument, type TextSource } from "./documents.js";
import { DataError } from "./errors.js";
import { fingerprintOf } from "./fingerprint.js";
import { NearCopies } from "./near-copies.js";
import { isHeldOut } from "./split.js";
import { TokenFile } from "./token-file.js";
import { TokenFileWriter } from "./token-file-writer.js";

export interface PrepareOptions {
  tokenizer: Tokenizer;
  /** Fraction of documents held out for evaluation. Default 0: all are for training. */
  heldOutFraction?: number;
  /** Which documents are held out. Default 0. */
  seed?: number;
  /** What to do with a document whose text, white space aside, came before. Default `keep`. */
  duplicates?: "keep" | "drop";
  /**
   * Leave a document out of training when at least this share of its runs of 13 words stands in held-out text too. Default: none is left
   * out. The source is then read twice.
   */
  nearCopyShare?: number;
  /** Called now and then with what has been done. */
  onProgress?: (done: { documents: number; textBytes: number; tokens: number }) => void;
  signal?: AbortSignal;
}

const count = z.number().int().nonnegative();
const summarySchema = z.strictObject({
  fingerprint: z.string(),
  /** Documents left out because their text came before. */
  duplicates: count,
  /** Documents left out of training because held-out text says the same. */
  nearCopies: count,
});

export interface PreparedTokens {
  train: TokenFile;
  /** Absent when nothing is held out. */
  heldOut?: TokenFile;
  /** For conversations: which tokens of `train` are to be learnt. */
  trainMask?: TokenFile;
  heldOutMask?: TokenFile;
  /** Documents that are in neither part. */
  duplicates: number;
  nearCopies: number;
  /** Whether the files were there already, from the same text and tokenizer. */
  reused: boolean;
}

/** Longest stretch without a turn for other work, in milliseconds. */
const turn = 20;

/**
 * Tokenizes a source once, into `train.tokens` and `held-out.tokens` in `folder` (and, for conversations, `train.mask` and
 * `held-out.mask`). Every document ends with the tokenizer's end of text. Equal documents fall on the same side of the split. Files made
 * before from the same text, options and tokenizer are used as they are.
 * @throws DataError, `DATA_EMPTY` when one of the two parts would have no document
 */
export async function prepareTokens(
  folder: string,
  source: TextSource,
  options: PrepareOptions,
): Promise<PreparedTokens> {
  const { tokenizer, heldOutFraction = 0, seed = 0, duplicates = "keep", nearCopyShare, signal } = options;
  const split = heldOutFraction > 0;
  const masked = source.format === "chat";
  const settings = { heldOutFraction, seed, duplicates, nearCopyShare, tokenizer: tokenizer.hash };
  const template = masked ? { template: tokenizer.config.chat_template } : {};
  const fingerprint = await fingerprintOf(folder, source, { ...settings, ...template });
  const names = ["train.tokens", ...(split ? ["held-out.tokens"] : [])];
  const paths = [...names, ...(masked ? names.map((name) => name.replace("tokens", "mask")) : [])];
  const ready = await openAll(folder, paths, fingerprint);
  if (ready) return { ...ready, reused: true };

  const held = ({ key }: TextDocument) => split && isHeldOut(key, heldOutFraction, seed);
  let copies: NearCopies | undefined;
  if (split && nearCopyShare !== undefined) {
    copies = new NearCopies(nearCopyShare);
    for await (const document of readDocuments(source)) {
      if (held(document)) copies.add(document.text);
      await breathe(signal);
    }
  }
  const parts = new Parts(folder, fingerprint, options, { split, masked });
  const dropped = { duplicates: 0, nearCopies: 0 };
  try {
    await parts.open();
    const seen = new Set<string>();
    let skipping = false;
    let continued = false;
    for await (const document of readDocuments(source)) {
      const side = held(document) ? "held-out" : "train";
      if (!continued) {
        const repeated = duplicates === "drop" && seen.has(document.key);
        const copied = !repeated && side === "train" && copies?.isCopy(document.text) === true;
        if (repeated) dropped.duplicates++;
        if (copied) dropped.nearCopies++;
        skipping = repeated || copied;
        if (duplicates === "drop") seen.add(document.key);
      }
      continued = document.continues;
      if (!skipping) await parts.append(side, document);
      await breathe(signal, () => parts.report());
    }
    parts.requireText(source);
    await writeFileAtomic(join(folder, summaryName), JSON.stringify({ fingerprint, ...dropped }));
    await parts.finish();
  } catch (error) {
    await parts.abort();
    throw error;
  }
  const made = await openAll(folder, paths, fingerprint);
  if (!made) throw new DataError("DATA_NOT_FOUND", `${folder}: another process changed it meanwhile; try again`);
  return { ...made, reused: false };
}

let lastTurn = performance.now();

/** A turn for other work, when it is time. */
async function breathe(signal: AbortSignal | undefined, also?: () => void): Promise<void> {
  if (performance.now() - lastTurn < turn) return;
  also?.();
  await setImmediate();
  signal?.throwIfAborted();
  lastTurn = performance.now();
}

const sides = ["train", "held-out"] as const;
type Side = (typeof sides)[number];

/** The files in the making. */
class Parts {
  readonly #writers = new Map<string, TokenFileWriter>();
  readonly #chat: ChatEncoder | undefined;
  readonly #done = { documents: 0, textBytes: 0, tokens: 0 };

  constructor(
    readonly folder: string,
    readonly fingerprint: string,
    readonly options: PrepareOptions,
    readonly kind: { split: boolean; masked: boolean },
  ) {
    this.#chat = kind.masked ? new ChatEncoder(options.tokenizer) : undefined;
  }

  async open(): Promise<void> {
    const { hash } = this.options.tokenizer;
    for (const side of sides.slice(0, this.kind.split ? 2 : 1)) {
      const create = (kind: "tokens" | "mask", vocabSize: number) =>
        TokenFileWriter.create(join(this.folder, `${side}.${kind}`), { hash, vocabSize }, this.fingerprint);
      this.#writers.set(`${side}.tokens`, await create("tokens", this.options.tokenizer.vocabSize));
      if (this.kind.masked) this.#writers.set(`${side}.mask`, await create("mask", 2));
    }
  }

  async append(side: Side, document: TextDocument): Promise<void> {
    const { tokenizer } = this.options;
    const writer = this.#writers.get(`${side}.tokens`)!;
    const mask = this.#writers.get(`${side}.mask`);
    const before = writer.tokens;
    const textBytes = Buffer.byteLength(document.text);
    if (this.#chat && mask) {
      const { tokens, learn } = this.#chat.encode(document);
      await writer.append(tokens, textBytes);
      await mask.append(learn, 0);
    } else await writer.append(tokenizer.encode(document.text), textBytes);
    if (!document.continues) {
      if (!this.#chat && tokenizer.eosTokenId !== undefined) await writer.append([tokenizer.eosTokenId], 0);
      writer.endDocument();
      mask?.endDocument();
      this.#done.documents++;
    }
    this.#done.textBytes += textBytes;
    this.#done.tokens += writer.tokens - before;
  }

  report(): void {
    this.options.onProgress?.({ ...this.#done });
  }

  requireText(source: TextSource): void {
    for (const side of sides) {
      if (this.#writers.get(`${side}.tokens`)?.tokens !== 0) continue;
      const part = side === "train" ? "training" : "held-out";
      throw new DataError(
        "DATA_EMPTY",
        `${source.paths.join(", ")}: no document falls in the ${part} part with a held-out fraction of ${this.options.heldOutFraction ?? 0}: give more documents, or smaller ones (unit: paragraph)`,
      );
    }
  }

  async finish(): Promise<void> {
    this.report();
    for (const writer of this.#writers.values()) await writer.finish();
  }

  async abort(): Promise<void> {
    for (const writer of this.#writers.values()) await writer.abort();
  }
}

const summaryName = "summary.json";

/** Undefined unless every file is there, whole, and made from what the fingerprint says. */
async function openAll(
  folder: string,
  names: readonly string[],
  fingerprint: string,
): Promise<Omit<PreparedTokens, "reused"> | undefined> {
  const summary = summarySchema.safeParse(await readJson(join(folder, summaryName)));
  if (!summary.success || summary.data.fingerprint !== fingerprint) return undefined;
  const files = new Map<string, TokenFile>();
  for (const name of names) {
    const file = openIfCurrent(join(folder, name), fingerprint);
    if (file) files.set(name, file);
  }
  if (files.size < names.length) {
    for (const file of files.values()) file.close();
    return undefined;
  }
  const [heldOut, trainMask, heldOutMask] = ["held-out.tokens", "train.mask", "held-out.mask"].map((name) =>
    files.get(name),
  );
  const { duplicates, nearCopies } = summary.data;
  return {
    train: files.get("train.tokens")!,
    ...(heldOut && { heldOut }),
    ...(trainMask && { trainMask }),
    ...(heldOutMask && { heldOutMask }),
    duplicates,
    nearCopies,
  };
}

async function readJson(path: string): Promise<unknown> {
  try {
    return JSON.parse(await readFile(path, "utf8"));
  } catch {
    // Not there, or cut short: the tokens are made again.
    return undefined;
  }
}

/** Undefined when there is no such file, or it is damaged, or made from something else. */
function openIfCurrent(path: string, fingerprint: string): TokenFile | undefined {
  try {
    const file = TokenFile.open(path);
    if (file.header.fingerprint === fingerprint) return file;
    file.close();
  } catch (error) {
    if (!(error instanceof DataError) && (error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  return undefined;
}
