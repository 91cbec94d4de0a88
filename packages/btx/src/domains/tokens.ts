import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DataError, prepareTokens, type TextSource, TokenFile, TokenFileWriter, type Tokenizer } from "@trefoil/core";
import { arithmeticSplit } from "./arithmetic.js";
import { findCode } from "./code.js";
import { type DomainDocument, type DomainSplit, drawDocuments, splitByKey } from "./documents.js";
import { installedModules } from "./files.js";
import { findProse } from "./prose.js";
import { type QuestionDomain, questionDomains, questionText } from "./question-text.js";

/** Text that every machine has once dependencies are installed, and text that is generated. */
export const builtInDomains = ["@code", "@prose", "@arithmetic", ...questionDomains] as const;
export type BuiltInDomain = (typeof builtInDomains)[number];

/** Where a domain's text comes from. */
export interface DomainSource extends Pick<TextSource, "extensions" | "field" | "format" | "unit"> {
  /** Files, folders and globs, or one built-in domain. */
  paths: readonly string[];
  /** Share of the rows where domains are trained on together, in relation to the other weights. Default 1. */
  weight?: number;
}

/** A source, or only its path. */
export type DomainSpec = string | DomainSource;

/** A domain's text as tokens, training and held-out part. */
export interface DomainTokens {
  readonly name: string;
  /** Default 1. */
  readonly weight?: number;
  readonly train: TokenFile;
  readonly heldOut: TokenFile;
  /** Of conversations: which tokens are to be learnt. */
  readonly trainMask?: TokenFile;
  readonly heldOutMask?: TokenFile;
  /** Documents left out because their text came before, or because held-out text says nearly the same. */
  readonly dropped?: { readonly duplicates: number; readonly nearCopies: number };
}

export interface DomainOptions {
  tokenizer: Tokenizer;
  /** Folder that the token files are kept in; what is there from the same options is used as it is. */
  cache: string;
  /** Share of documents held out. Default 0.1. */
  heldOutShare?: number;
  /** Bytes of text read for each domain, at most. Default 4e6. */
  maxBytes?: number;
  /** Where the built-in domains look for text. Default: the `node_modules` folders around. */
  roots?: readonly string[];
  /** Whether documents whose text came before are kept. Default `drop`. */
  duplicates?: "keep" | "drop";
  /** A document is left out of training when this share of its runs of 13 words stands in held-out text. Default 0.5. */
  nearCopyShare?: number;
  signal?: AbortSignal;
}

/** Part of the cache's name: raised when the built-in domains come to give other text. */
const builtInVersion = 1;

/**
 * Tokenizes domains, each once. A source is one of `builtInDomains`, or paths: text or JSONL files, folders, globs.
 * @param sources by domain name
 * @throws DataError `DATA_EMPTY` when a domain has no text in one of its parts; messages name the domain
 */
export async function openDomains(
  sources: Readonly<Record<string, DomainSpec>>,
  options: DomainOptions,
): Promise<DomainTokens[]> {
  const opened: DomainTokens[] = [];
  try {
    for (const [name, spec] of Object.entries(sources)) {
      const source = typeof spec === "string" ? { paths: [spec] } : spec;
      const { weight = 1 } = source;
      opened.push({ name, weight, ...(await openDomain(name, source, options)) });
    }
  } catch (error) {
    closeDomains(opened);
    throw error;
  }
  return opened;
}

export function closeDomains(domains: readonly DomainTokens[]): void {
  for (const { train, heldOut, trainMask, heldOutMask } of domains)
    for (const file of [train, heldOut, trainMask, heldOutMask]) file?.close();
}

/** Whether a built-in domain is among some sources. */
export function hasBuiltIn(sources: Readonly<Record<string, DomainSpec>>, wanted: BuiltInDomain): boolean {
  return Object.values(sources).some((spec) => (typeof spec === "string" ? [spec] : spec.paths).includes(wanted));
}

async function openDomain(name: string, source: DomainSource, options: DomainOptions): Promise<Opened> {
  // A folder for each tokenizer: models that differ in it do not take turns at one cache.
  const folder = join(options.cache, `${name}-${options.tokenizer.hash.slice(0, 8)}`);
  const builtIn = source.paths.find(isBuiltIn);
  try {
    if (builtIn === undefined) return await openText(folder, source, options);
    if (source.paths.length === 1) return await openBuiltIn(folder, builtIn, options);
    throw new DataError("DATA_INVALID_OPTION", `${builtIn} stands alone: make other paths a domain of their own`);
  } catch (error) {
    if (!(error instanceof DataError)) throw error;
    throw new DataError(error.code, `domain "${name}": ${error.message}`, { cause: error });
  }
}

type Opened = Omit<DomainTokens, "name" | "weight">;

async function openText(folder: string, source: DomainSource, options: DomainOptions): Promise<Opened> {
  const { tokenizer, heldOutShare = 0.1, maxBytes = 4e6, duplicates = "drop", nearCopyShare = 0.5, signal } = options;
  const { weight: _, ...text } = source;
  const prepared = await prepareTokens(
    folder,
    { ...text, maxBytes, invalidUtf8: "skip" },
    { tokenizer, heldOutFraction: heldOutShare, duplicates, nearCopyShare, ...(signal && { signal }) },
  );
  const { train, heldOut, trainMask, heldOutMask, nearCopies } = prepared;
  return {
    train,
    heldOut: heldOut!,
    ...(trainMask && { trainMask }),
    ...(heldOutMask && { heldOutMask }),
    dropped: { duplicates: prepared.duplicates, nearCopies },
  };
}

async function openBuiltIn(folder: string, source: BuiltInDomain, options: DomainOptions): Promise<Opened> {
  const { tokenizer, heldOutShare = 0.1, maxBytes = 4e6, roots = installedModules(), signal } = options;
  const settings = JSON.stringify([builtInVersion, source, heldOutShare, maxBytes, roots, tokenizer.hash]);
  const fingerprint = createHash("sha256").update(settings).digest("hex");
  const paths = { train: join(folder, "train.tokens"), heldOut: join(folder, "held-out.tokens") };
  const [train, heldOut] = [openIfMade(paths.train, fingerprint), openIfMade(paths.heldOut, fingerprint)];
  if (train && heldOut) return { train, heldOut };
  train?.close();
  heldOut?.close();
  signal?.throwIfAborted();
  const split = await readBuiltIn(source, { heldOutShare, maxBytes, roots });
  const { train: training, heldOut: testing } = split;
  if (training.length + testing.length === 0)
    throw new DataError("DATA_EMPTY", `${source} found no text: install dependencies, or name other roots`);
  if (training.length === 0 || testing.length === 0) {
    const none = training.length === 0 ? "left to train on" : "held out";
    const limits = `with data.maxBytes ${maxBytes} and data.heldOut ${heldOutShare}`;
    throw new DataError("DATA_EMPTY", `${source}: ${limits} no document is ${none}: change one of them`);
  }
  await mkdir(folder, { recursive: true });
  for (const side of ["train", "heldOut"] as const)
    await writeTokens(paths[side], split[side], { tokenizer, fingerprint });
  return { train: TokenFile.open(paths.train, { tokenizer }), heldOut: TokenFile.open(paths.heldOut, { tokenizer }) };
}

function isBuiltIn(source: string): source is BuiltInDomain {
  if ((builtInDomains as readonly string[]).includes(source)) return true;
  if (!source.startsWith("@")) return false;
  throw new DataError(
    "DATA_INVALID_OPTION",
    `there is no built-in domain ${source}: choose ${builtInDomains.join(", ")}, or give a path`,
  );
}

const isQuestionDomain = (source: BuiltInDomain): source is QuestionDomain =>
  (questionDomains as readonly string[]).includes(source);

/** The documents of a built-in domain. */
export async function readBuiltIn(
  source: BuiltInDomain,
  options: { heldOutShare: number; maxBytes: number; roots: readonly string[] },
): Promise<DomainSplit> {
  const { heldOutShare, maxBytes, roots } = options;
  if (source === "@arithmetic") return arithmeticSplit({ bytes: maxBytes, heldOutShare });
  if (isQuestionDomain(source))
    return drawDocuments(questionText(source, heldOutShare), { bytes: maxBytes, heldOutShare });
  const find = source === "@code" ? findCode : findProse;
  return splitByKey(await find(roots, maxBytes), heldOutShare);
}

async function writeTokens(
  path: string,
  documents: readonly DomainDocument[],
  { tokenizer, fingerprint }: { tokenizer: Tokenizer; fingerprint: string },
): Promise<void> {
  const writer = await TokenFileWriter.create(path, tokenizer, fingerprint);
  try {
    const end = tokenizer.eosTokenId === undefined ? [] : [tokenizer.eosTokenId];
    for (const { text } of documents) {
      await writer.append(tokenizer.encode(text), Buffer.byteLength(text));
      await writer.append(end, 0);
      writer.endDocument();
    }
    await writer.finish();
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

function openIfMade(path: string, fingerprint: string): TokenFile | undefined {
  try {
    const file = TokenFile.open(path);
    if (file.header.fingerprint === fingerprint) return file;
    file.close();
  } catch {
    // Not there, or damaged: it is made again.
  }
  return undefined;
}
