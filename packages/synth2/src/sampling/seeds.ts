import { createHash } from "node:crypto";

/**
 * Two words of randomness for one picture: from the run's seed and what names the picture, so that neither its place in a batch nor
 * the pictures before it matter.
 */
export function pictureSeed(seed: number, name: string): [number, number] {
  const digest = createHash("sha256").update(`${seed}\0${name}`).digest();
  return [digest.readInt32LE(0), digest.readInt32LE(4)];
}
