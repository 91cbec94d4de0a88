import { emptyBatch, evaluationBatches, InitialValues, type TokenBatch, type Tokenizer } from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { bitsPerByteFrom, type WindowNats } from "../ensemble/index.js";
import type { DomainRouting } from "../stages/index.js";

/** Shortest and longest stretch of one domain in a window that switches. */
const stretch = [24, 48] as const;

/** Held-out windows, the same for every arm and seed. */
export interface Windows {
  byDomain: ReadonlyMap<string, readonly TokenBatch[]>;
  /** Windows that switch domain every few dozen tokens. */
  switching: readonly TokenBatch[];
}

export interface WindowSizes {
  batch: number;
  sequence: number;
  windows: number;
}

export function windowsOf(domains: readonly DomainTokens[], sizes: WindowSizes): Windows {
  const { batch, sequence, windows } = sizes;
  const byDomain = new Map(
    domains.map(({ name, heldOut }) => [
      name,
      [...evaluationBatches(heldOut, { batch, sequence, maxWindows: windows })],
    ]),
  );
  const random = new InitialValues(0);
  const below = (count: number) => Math.floor(random.next() * count);
  const switching: TokenBatch[] = [];
  for (let first = 0; first < windows; first += batch) {
    const filled = emptyBatch(batch, sequence, false);
    for (let row = 0; row < Math.min(batch, windows - first); row++) {
      const ids = new Int32Array(sequence + 1);
      let domain = below(domains.length);
      for (let at = 0; at < ids.length; ) {
        const length = Math.min(ids.length - at, stretch[0] + below(stretch[1] - stretch[0] + 1));
        const { heldOut } = domains[domain]!;
        heldOut.read(below(heldOut.tokens - length), ids.subarray(at, at + length));
        at += length;
        domain = (domain + 1 + below(domains.length - 1)) % domains.length;
      }
      filled.tokens.set(ids.subarray(0, -1), row * sequence);
      filled.targets.set(ids.subarray(1), row * sequence);
    }
    switching.push(filled);
  }
  return { byDomain, switching };
}

export interface WindowScores {
  /** By domain: bits per byte of the second half of held-out windows, given the first. */
  bitsPerByte: Record<string, number>;
  /** Mean over domains. */
  mean: number;
  /** Of windows that switch domain. */
  switching: number;
}

/** @param natsOf what a model or an ensemble gives each token */
export async function scoreWindows(
  { byDomain, switching }: Windows,
  tokenizer: Tokenizer,
  natsOf: (batches: readonly TokenBatch[], key: string) => Promise<WindowNats>,
): Promise<WindowScores> {
  const lengths = tokenizer.byteLengths()!;
  const score = async (batches: readonly TokenBatch[], key: string) =>
    bitsPerByteFrom(await natsOf(batches, key), batches, lengths, batches[0]!.sequence / 2);
  const bitsPerByte: Record<string, number> = {};
  for (const [name, batches] of byDomain) bitsPerByte[name] = await score(batches, name);
  const values = Object.values(bitsPerByte);
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  return { bitsPerByte, mean, switching: await score(switching, "switching") };
}

/**
 * How much the choice of an expert says about the domain: mutual information over the domains' entropy, 0 to 1, mean over layers.
 * Domains count the same.
 */
export function specialisation(table: readonly DomainRouting[]): number {
  const layers = table[0]!.share.length;
  const domains = table.length;
  let total = 0;
  for (let layer = 0; layer < layers; layer++) {
    const rows = table.map(({ share }) => share[layer]!);
    const marginal = rows[0]!.map((_, e) => rows.reduce((sum, row) => sum + row[e]!, 0) / domains);
    for (const row of rows)
      row.forEach((p, e) => {
        if (p > 0) total += (p * Math.log(p / marginal[e]!)) / domains;
      });
  }
  return total / layers / Math.log(domains);
}
