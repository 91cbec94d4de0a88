import { createHash } from "node:crypto";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { DataError, prepareTokens, TokenFile, TokenFileWriter, type Tokenizer } from "@trefoil/core";
import { arithmeticSplit } from "./arithmetic.js";
import { findCode } from "./code.js";
import { type DomainDocument, type DomainSplit, splitByKey } from "./documents.js";
import { installedModules } from "./files.js";
import { findProse } from "./prose.js";

/** Text that every machine has once dependencies are installed, and arithmetic that is generated. */
export const builtInDomains = ["@code", "@prose", "@arithmetic"] as const;
export type BuiltInDomain = (typeof builtInDomains)[number];

/** A domain's text as tokens, training and held-out part. */
export interface DomainTokens {
  readonly name: string;
  readonly train: TokenFile;
  readonly heldOut: TokenFile;
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
  signal?: AbortSignal;
}

/** Part of the cache's name: raised when the built-in domains come to give other text. */
const builtInVersion = 1;

/**
 * Tokenizes domains, each once. A source is `@code`, `@prose`, `@arithmetic`, or a path: a text or JSONL file, a
 * folder, or a glob.
 * @param sources by domain name
 * @throws DataError `DATA_EMPTY` when a domain has no text in one of its parts
 */
export async function openDomains(
  sources: Readonly<Record<string, string>>,
  options: DomainOptions,
): Promise<DomainTokens[]> {
  const opened: DomainTokens[] = [];
  try {
    for (const [name, source] of Object.entries(sources))
      opened.push({ name, ...(await openDomain(name, source, options)) });
  } catch (error) {
    closeDomains(opened);
    throw error;
  }
  return opened;
}

export function closeDomains(domains: readonly DomainTokens[]): void {
  for (const { train, heldOut } of domains) {
    train.close();
    heldOut.close();
  }
}

async function openDomain(name: string, source: string, options: DomainOptions): Promise<Omit<DomainTokens, "name">> {
  const { tokenizer, cache, heldOutShare = 0.1, maxBytes = 4e6, roots = installedModules(), signal } = options;
  if (!isBuiltIn(source)) {
    const folder = join(cache, name);
    const settings = { tokenizer, heldOutFraction: heldOutShare, ...(signal && { signal }) };
    const { train, heldOut } = await prepareTokens(
      folder,
      { paths: [source], maxBytes, invalidUtf8: "skip" },
      settings,
    );
    return { train, heldOut: heldOut! };
  }
  const settings = JSON.stringify([builtInVersion, source, heldOutShare, maxBytes, roots, tokenizer.hash]);
  const fingerprint = createHash("sha256").update(settings).digest("hex");
  const folder = join(cache, name);
  const paths = { train: join(folder, "train.tokens"), heldOut: join(folder, "held-out.tokens") };
  const [train, heldOut] = [openIfMade(paths.train, fingerprint), openIfMade(paths.heldOut, fingerprint)];
  if (train && heldOut) return { train, heldOut };
  train?.close();
  heldOut?.close();
  signal?.throwIfAborted();
  const split = await readBuiltIn(source, { heldOutShare, maxBytes, roots });
  await mkdir(folder, { recursive: true });
  for (const side of ["train", "heldOut"] as const)
    await writeTokens(paths[side], split[side], { source, tokenizer, fingerprint });
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

/** The documents of a built-in domain. */
export async function readBuiltIn(
  source: BuiltInDomain,
  options: { heldOutShare: number; maxBytes: number; roots: readonly string[] },
): Promise<DomainSplit> {
  const { heldOutShare, maxBytes, roots } = options;
  if (source === "@arithmetic") return arithmeticSplit({ bytes: maxBytes, heldOutShare });
  const find = source === "@code" ? findCode : findProse;
  return splitByKey(await find(roots, maxBytes), heldOutShare);
}

async function writeTokens(
  path: string,
  documents: readonly DomainDocument[],
  { source, tokenizer, fingerprint }: { source: string; tokenizer: Tokenizer; fingerprint: string },
): Promise<void> {
  if (documents.length === 0)
    throw new DataError("DATA_EMPTY", `${source} found no text: install dependencies, or name other roots`);
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
