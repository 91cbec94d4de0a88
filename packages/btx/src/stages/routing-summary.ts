import type { DomainRouting } from "./routing.js";

/** What one layer's routing comes to over all domains, each counted the same. */
export interface LayerRouting {
  /** Of each expert, its share of the choices; sums to 1. */
  load: number[];
  /** Of the load, over that of an even one: 1 when all experts do the same, 0 when one does all. */
  evenness: number;
  /** Experts that no token chose. */
  dead: number[];
  /** Mutual information of domain and expert, in bits: what a choice tells about where its token is from. */
  domainInformation: number;
}

/** @param table of one or more domains, as `routingTable` gives it */
export function summarizeRouting(table: readonly DomainRouting[]): LayerRouting[] {
  return (table[0]?.share ?? []).map((first, layer) => {
    const shares = table.map(({ share }) => share[layer]!);
    const load = first.map((_, expert) => mean(shares.map((share) => share[expert]!)));
    return {
      load,
      evenness: load.length > 1 ? entropy(load) / Math.log2(load.length) : 1,
      dead: load.flatMap((share, expert) => (share === 0 ? [expert] : [])),
      // H(expert) - H(expert | domain); rounding must not make it negative.
      domainInformation: Math.max(0, entropy(load) - mean(shares.map(entropy))),
    };
  });
}

const mean = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0) / values.length;

/** In bits. */
const entropy = (shares: readonly number[]): number =>
  shares.reduce((sum, share) => (share > 0 ? sum - share * Math.log2(share) : sum), 0);
