import { addon } from "@trefoil/native";

/** Weights as a checkpoint stores them. */
export interface StoredWeights {
  readonly dtype: "F32" | "F16" | "BF16";
  /** Little-endian elements, aligned or not. Not copied: leave them alone until the promise settles. */
  readonly bytes: Uint8Array;
}

export interface StoredMean {
  /** Of the mean. */
  readonly squaredNorm: number;
  /** Of each source from the mean. Not finite, or the norm is not, exactly when some value of some source is not. */
  readonly squaredDistances: number[];
  /** Whether a finite mean became infinite in the target's dtype. */
  readonly overflow: boolean;
}

/**
 * The weighted mean of stored weights of one size, on another thread: computed in double precision, as the first source plus weighted
 * differences, so that equal sources give exactly themselves; rounded to F32, and from there to the target's dtype.
 * @param weights summing to 1
 * @param target receives the mean, where it is wanted
 */
export async function meanOfStored(
  sources: readonly StoredWeights[],
  weights: readonly number[],
  target?: StoredWeights,
): Promise<StoredMean> {
  const [bytes, dtypes] = [sources.map((source) => source.bytes), sources.map(({ dtype }) => dtype)];
  const [overflow, squaredNorm, ...squaredDistances] = await addon().weightedMean(
    bytes,
    dtypes,
    [...weights],
    target?.bytes,
    target?.dtype,
  );
  return { overflow: overflow === 1, squaredNorm: squaredNorm!, squaredDistances };
}

/** A hash of 53 bits, on another thread, to tell whether bytes read back are those written. Not against anybody's intent. */
export async function checksum(bytes: Uint8Array): Promise<number> {
  return (await addon().checksum(bytes))[0]!;
}
