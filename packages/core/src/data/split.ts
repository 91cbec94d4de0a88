import { createHash } from "node:crypto";
import { DataError } from "./errors.js";

/**
 * Whether a document belongs to the held-out part. Decided by its key alone, so equal documents, and the parts of one, fall on
 * the same side, and documents added later move none.
 * @param fraction of documents held out, from 0 to 1
 */
export function isHeldOut(key: string, fraction: number, seed = 0): boolean {
  if (!(fraction >= 0 && fraction <= 1))
    throw new DataError("DATA_INVALID_OPTION", `the held-out fraction is ${fraction}: choose 0 to 1`);
  return createHash("sha256").update(`${seed}:${key}`).digest().readUIntBE(0, 6) < fraction * 2 ** 48;
}
