import { createHash } from "node:crypto";
import { z } from "zod";
import { emptyBatch, fillPackedRow, fillRow, requireBatchMemory, type TokenBatch } from "./batch.js";
import { DataError } from "./errors.js";
import { PackedRows } from "./packing.js";
import { Permutation } from "./permutation.js";
import { philox, wordsOf } from "./philox.js";
import type { TokenFile } from "./token-file.js";

export interface Domain {
  name: string;
  file: TokenFile;
  /** Which tokens are to be predicted, 1 or 0, as many as `file` has. Default: all. */
  mask?: TokenFile | undefined;
  /** Share of the rows drawn from this domain, in relation to the other weights. 0: none. */
  weight: number;
}

export interface MixtureOptions {
  domains: readonly Domain[];
  /** Rows of a batch. */
  batch: number;
  /** Positions of a row. */
  sequence: number;
  seed: number;
  /** How documents come to rows. Default `joined`. */
  documents?: DocumentLayout;
}

/**
 * - `joined`: a row is one stretch of text, whatever documents it runs through
 * - `apart`: the same rows, but each document in one is a segment: attention and positions start anew
 * - `packed`: whole documents, as many as fit, each a segment (`PackedRows`)
 */
export const documentLayouts = ["joined", "apart", "packed"] as const;
export type DocumentLayout = (typeof documentLayouts)[number];

/** What was taken of a domain. */
export interface DomainUsage {
  name: string;
  rows: number;
  /** Positions that hold text; each predicts a token unless masked or last of its document. */
  tokens: number;
  epochs: number;
}

const count = z.number().int().nonnegative();
const stateSchema = z.object({
  seed: count,
  sequence: count,
  /** Rows drawn. */
  rows: count,
  documents: z.enum(documentLayouts).default("joined"),
  domains: z.array(z.object({ name: z.string(), tokens: count, rows: count, positions: count })),
});

/** Where a mixture stands, as plain JSON. */
export type MixtureState = z.infer<typeof stateSchema>;

interface Cursor {
  domain: Domain;
  /** Rows that its text makes. */
  windows: number;
  packed?: PackedRows;
  /** Tells its order of windows apart from those of other domains; from the name, so that others do not change it. */
  stream: number;
  rows: number;
  /** Positions given so far that hold text. */
  positions: number;
  order?: Permutation;
  epoch: number;
}

/**
 * Endless batches from one or several domains. The domain of a row is random by weight; each domain gives every one of its
 * windows once, in random order, before any again. The n-th row depends only on the options and n: a restored mixture goes on
 * exactly as it would have, whatever the batch size.
 */
export class TokenMixture {
  readonly batch: number;
  readonly sequence: number;
  readonly #seed: number;
  readonly #documents: DocumentLayout;
  readonly #cursors: readonly Cursor[];
  /** Cumulative shares of the domains; the last is 1. */
  readonly #shares: readonly number[];
  #rows = 0;

  /**
   * @throws DataError `DATA_INVALID_OPTION`; `DATA_EMPTY` when a domain has fewer than `sequence + 1` tokens
   * @throws OutOfMemoryError for a batch that no memory holds
   */
  constructor({ domains, batch, sequence, seed, documents = "joined" }: MixtureOptions) {
    for (const [name, value] of Object.entries({ batch, sequence })) {
      if (!Number.isSafeInteger(value) || value < 1)
        throw new DataError("DATA_INVALID_OPTION", `${name} is ${value}: choose a positive whole number`);
    }
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new DataError("DATA_INVALID_OPTION", `seed is ${seed}: choose a whole number from 0`);
    if (new Set(domains.map(({ name }) => name)).size < domains.length)
      throw new DataError("DATA_INVALID_OPTION", "two domains have the same name");
    const total = domains.reduce((sum, { weight }) => sum + weight, 0);
    if (!(total > 0 && total < Infinity) || domains.some(({ weight }) => !(weight >= 0))) {
      throw new DataError("DATA_INVALID_OPTION", "weights must be numbers from 0, not all 0");
    }
    for (const { name, file, mask, weight } of domains) {
      if (weight > 0 && documents !== "packed" && file.windows(sequence) === 0) {
        throw new DataError(
          "DATA_EMPTY",
          `domain "${name}" (${file.path}) has ${file.tokens} tokens; a row takes ${sequence + 1}: give more text or a shorter sequence`,
        );
      }
      if (mask && mask.tokens !== file.tokens)
        throw new DataError(
          "DATA_INVALID_OPTION",
          `the mask of "${name}" has ${mask.tokens} tokens, not ${file.tokens}`,
        );
    }
    requireBatchMemory(batch, sequence, documents !== "joined");
    this.batch = batch;
    this.sequence = sequence;
    this.#seed = seed;
    this.#documents = documents;
    this.#cursors = domains.map((domain) => {
      const packed = documents === "packed" ? new PackedRows(domain.file, sequence) : undefined;
      if (packed?.rows === 0 && domain.weight > 0) {
        const { name, file } = domain;
        throw new DataError(
          "DATA_EMPTY",
          `domain "${name}" (${file.path}) has no document of two tokens: give more text`,
        );
      }
      return {
        domain,
        windows: packed?.rows ?? domain.file.windows(sequence),
        ...(packed && { packed }),
        stream: createHash("sha256").update(domain.name).digest().readUInt32LE(0),
        rows: 0,
        positions: 0,
        epoch: -1,
      };
    });
    const lastUsed = domains.findLastIndex(({ weight }) => weight > 0);
    // From the last domain in use on, exactly 1: rounding must not leave a gap.
    let sum = 0;
    this.#shares = domains.map(({ weight }, i) => {
      sum += weight;
      return i >= lastUsed ? 1 : sum / total;
    });
  }

  /** The next batch. Its arrays are new: the caller may keep or transfer them. */
  next(): TokenBatch {
    const batch = emptyBatch(this.batch, this.sequence, this.#documents !== "joined");
    for (let row = 0; row < this.batch; row++) {
      const domain = this.#domainOf(this.#rows++);
      const cursor = this.#cursors[domain] as Cursor;
      batch.domain[row] = domain;
      const window = this.#nextWindow(cursor);
      if (cursor.packed) {
        const pieces = [...cursor.packed.piecesOf(window)];
        fillPackedRow(batch, row, cursor.domain, pieces);
        for (const { length } of pieces) cursor.positions += length;
      } else {
        fillRow(batch, row, cursor.domain, window * this.sequence);
        cursor.positions += this.sequence;
      }
    }
    return batch;
  }

  /** Of each domain: rows and tokens of text given so far, and how often its text was gone through. */
  usage(): DomainUsage[] {
    return this.#cursors.map(({ domain, rows, positions, windows }) => ({
      name: domain.name,
      rows,
      tokens: positions,
      epochs: windows > 0 ? rows / windows : 0,
    }));
  }

  state(): MixtureState {
    return {
      seed: this.#seed,
      sequence: this.sequence,
      rows: this.#rows,
      documents: this.#documents,
      domains: this.#cursors.map(({ domain, rows, positions }) => ({
        name: domain.name,
        tokens: domain.file.tokens,
        rows,
        positions,
      })),
    };
  }

  /** Goes on from a state. @throws DataError `DATA_CURSOR_MISMATCH` when it belongs to other data or options */
  restore(state: unknown): void {
    const parsed = stateSchema.safeParse(state);
    if (!parsed.success) throw new DataError("DATA_CURSOR_MISMATCH", "the saved data cursor is malformed");
    const [saved, own] = [parsed.data, this.state()];
    const differ = (what: string, theirs: unknown, ours: unknown): never => {
      throw new DataError(
        "DATA_CURSOR_MISMATCH",
        `the saved data cursor has ${what} ${String(theirs)}, this run ${String(ours)}: resume with the options and data it was started with`,
      );
    };
    if (saved.seed !== own.seed) differ("seed", saved.seed, own.seed);
    if (saved.sequence !== own.sequence) differ("sequence", saved.sequence, own.sequence);
    if (saved.documents !== own.documents) differ("documents", saved.documents, own.documents);
    const [theirs, ours] = [saved, own].map(({ domains }) => domains.map(({ name }) => name).join(", "));
    if (theirs !== ours) differ("the domains", theirs, ours);
    for (const [i, { name, tokens }] of saved.domains.entries()) {
      const found = own.domains[i]?.tokens;
      if (tokens !== found) differ(`the tokens of "${name}"`, tokens, found);
    }
    this.#rows = saved.rows;
    for (const [i, cursor] of this.#cursors.entries()) {
      const { rows, positions } = saved.domains[i]!;
      cursor.rows = rows;
      cursor.positions = positions;
    }
  }

  #domainOf(row: number): number {
    if (this.#cursors.length === 1) return 0;
    const [low, high] = philox([...wordsOf(row), 0, domainStream], wordsOf(this.#seed));
    const uniform = (low * 2 ** 21 + (high >>> 11)) * 2 ** -53;
    return this.#shares.findIndex((share) => uniform < share);
  }

  #nextWindow(cursor: Cursor): number {
    const { windows, stream } = cursor;
    const epoch = Math.floor(cursor.rows / windows);
    if (!cursor.order || cursor.epoch !== epoch) {
      cursor.order = new Permutation(windows, this.#seed, epoch, stream);
      cursor.epoch = epoch;
    }
    return cursor.order.at(cursor.rows++ % windows);
  }
}

/** Separates the draw of domains from the keys of permutations, which count from 0 in this word. */
const domainStream = 0x6d697874;
