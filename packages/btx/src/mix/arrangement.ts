import { MixError } from "./errors.js";

/** Hidden units [start, end) of the feed-forward layers of one checkpoint. */
export interface Piece {
  readonly source: number;
  readonly start: number;
  readonly end: number;
}

/** Which hidden units make up each expert of the mixture. */
export interface ExpertArrangement {
  readonly experts: readonly { readonly name: string; readonly pieces: readonly Piece[] }[];
  /** Hidden units of each expert. */
  readonly intermediateSize: number;
  /** Factor on the down projections. */
  readonly downScale: number;
}

/** One checkpoint, one expert: Branch-Train-MiX (arXiv 2403.07816, §3.2). @param width hidden units */
export function wholeExperts(names: readonly string[], width: number): ExpertArrangement {
  const experts = names.map((name, source) => ({ name, pieces: [{ source, start: 0, end: width }] }));
  return { experts, intermediateSize: width, downScale: 1 };
}

/**
 * Every checkpoint cut into `chunks` experts (§4.3.1, splitting). Gates that sum to 1 over the chunks of one checkpoint would
 * give 1/chunks of its output: the down projections are scaled by `chunks`, which is exact. @throws MixError
 */
export function splitExperts(names: readonly string[], width: number, chunks: number): ExpertArrangement {
  if (!Number.isInteger(chunks) || chunks < 2 || width % chunks !== 0) {
    throw new MixError("MIX_OPTIONS", `intermediate_size ${width} cannot be split into ${chunks} equal chunks`);
  }
  const size = width / chunks;
  const experts = names.flatMap((name, source) =>
    Array.from({ length: chunks }, (_, c) => ({
      name: `${name}/${c}`,
      pieces: [{ source, start: c * size, end: (c + 1) * size }],
    })),
  );
  return { experts, intermediateSize: size, downScale: chunks };
}

/** Expert n is the n-th chunk of every checkpoint (§4.3.1, blending): their sum stays what it was. @throws MixError */
export function blendExperts(names: readonly string[], width: number): ExpertArrangement {
  const count = names.length;
  if (width % count !== 0)
    throw new MixError("MIX_OPTIONS", `intermediate_size ${width} cannot be blended over ${count} experts`);
  const size = width / count;
  const experts = names.map((_, n) => ({
    name: `blend ${n}`,
    pieces: names.map((__, source) => ({ source, start: n * size, end: (n + 1) * size })),
  }));
  return { experts, intermediateSize: width, downScale: 1 };
}

/** Copies of one checkpoint: sparse upcycling (Komatsuzaki et al. 2022, arXiv 2212.05055). @throws MixError */
export function copiedExperts(count: number, width: number): ExpertArrangement {
  if (!Number.isInteger(count) || count < 2)
    throw new MixError("MIX_OPTIONS", `a mixture needs at least 2 experts, got ${count}`);
  const experts = Array.from({ length: count }, (_, i) => ({
    name: `copy ${i}`,
    pieces: [{ source: 0, start: 0, end: width }],
  }));
  return { experts, intermediateSize: width, downScale: 1 };
}
