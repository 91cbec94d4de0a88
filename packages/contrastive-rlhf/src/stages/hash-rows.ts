import { createHash } from "node:crypto";

/** SHA-256 of data rows with all their fields: a run is resumed with the same ones only. */
export function hashRows(rows: readonly object[]): string {
  const hash = createHash("sha256");
  for (const row of rows) hash.update(`${JSON.stringify(row)}\n`);
  return hash.digest("hex");
}
