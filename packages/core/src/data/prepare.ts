import { createHash } from "node:crypto";
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { setImmediate } from "node:timers/promises";
import type { Tokenizer } from "../text/tokenizer.js";
import { defaultExtensions, readDocuments, type TextDocument, type TextSource } from "./documents.js";
import { DataError } from "./errors.js";
import { resolveFiles } from "./files.js";
import { isHeldOut } from "./split.js";
import { TokenFile } from "./token-file.js";
import { TokenFileWriter } from "./token-file-writer.js";

export interface PrepareOptions {
  tokenizer: Tokenizer;
  /** Fraction of documents held out for evaluation. Default 0: all are for training. */
  heldOutFraction?: number;
  /** Which documents are held out. Default 0. */
  seed?: number;
  /** Called now and then with what has been done. */
  onProgress?: (done: { documents: number; textBytes: number; tokens: number }) => void;
  signal?: AbortSignal;
}

export interface PreparedTokens {
  train: TokenFile;
  /** Absent when nothing is held out. */
  heldOut?: TokenFile;
  /** Whether the files were there already, from the same text and tokenizer. */
  reused: boolean;
}

/** Longest stretch without a turn for other work, in milliseconds. */
const turn = 20;

/**
 * Tokenizes a source once, into `train.tokens` and `held-out.tokens` in `folder`. Every document ends with the tokenizer's end
 * of text. Files made before from the same files (by path, size and time of change), options and tokenizer are used as they are.
 * @throws DataError, `DATA_EMPTY` when one of the two parts would have no document
 */
export async function prepareTokens(
  folder: string,
  source: TextSource,
  options: PrepareOptions,
): Promise<PreparedTokens> {
  const { tokenizer, heldOutFraction = 0, seed = 0 } = options;
  const split = heldOutFraction > 0;
  const fingerprint = await fingerprintOf(source, { heldOutFraction, seed, tokenizer: tokenizer.hash });
  const [trainPath, heldOutPath] = [join(folder, "train.tokens"), join(folder, "held-out.tokens")];
  const there = openIfCurrent(trainPath, fingerprint);
  const heldOutThere = split ? openIfCurrent(heldOutPath, fingerprint) : undefined;
  if (there && (heldOutThere || !split))
    return { train: there, ...(heldOutThere && { heldOut: heldOutThere }), reused: true };
  there?.close();
  heldOutThere?.close();

  await mkdir(folder, { recursive: true });
  const train = await TokenFileWriter.create(trainPath, tokenizer, fingerprint);
  const heldOut = split ? await TokenFileWriter.create(heldOutPath, tokenizer, fingerprint) : undefined;
  try {
    await tokenize(readDocuments(source), options, ({ key }) =>
      heldOut && isHeldOut(key, heldOutFraction, seed) ? heldOut : train,
    );
    for (const [writer, name] of [
      [train, "training"],
      [heldOut, "held-out"],
    ] as const) {
      if (writer?.tokens === 0) {
        throw new DataError(
          "DATA_EMPTY",
          `${source.paths.join(", ")}: no document falls in the ${name} part with a held-out fraction of ${heldOutFraction}: give more documents, or smaller ones (unit: paragraph)`,
        );
      }
    }
    await train.finish();
    await heldOut?.finish();
  } catch (error) {
    await train.abort();
    await heldOut?.abort();
    throw error;
  }
  return {
    train: TokenFile.open(trainPath, { tokenizer }),
    ...(heldOut && { heldOut: TokenFile.open(heldOutPath, { tokenizer }) }),
    reused: false,
  };
}

async function tokenize(
  documents: AsyncIterable<TextDocument>,
  { tokenizer, onProgress, signal }: PrepareOptions,
  writerOf: (document: TextDocument) => TokenFileWriter,
): Promise<void> {
  const end = tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId];
  const done = { documents: 0, textBytes: 0, tokens: 0 };
  let lastTurn = performance.now();
  for await (const document of documents) {
    const writer = writerOf(document);
    const before = writer.tokens;
    const textBytes = Buffer.byteLength(document.text);
    await writer.append(tokenizer.encode(document.text), textBytes);
    if (!document.continues) {
      await writer.append(end, 0);
      writer.endDocument();
      done.documents++;
    }
    done.textBytes += textBytes;
    done.tokens += writer.tokens - before;
    if (performance.now() - lastTurn < turn) continue;
    onProgress?.({ ...done });
    await setImmediate();
    signal?.throwIfAborted();
    lastTurn = performance.now();
  }
  onProgress?.({ ...done });
}

async function fingerprintOf(source: TextSource, settings: object): Promise<string> {
  const hash = createHash("sha256").update(JSON.stringify([source, settings]));
  for (const path of await resolveFiles(source.paths, source.extensions ?? defaultExtensions)) {
    const { size, mtimeMs } = await stat(path);
    hash.update(JSON.stringify([path, size, mtimeMs]));
  }
  return hash.digest("hex");
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
