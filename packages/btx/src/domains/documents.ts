import { createHash } from "node:crypto";

/** A text of a domain and where it came from. */
export interface Document {
  readonly source: string;
  readonly text: string;
}

/** Documents of a domain, those held out never seen in training. */
export interface Split {
  readonly train: readonly Document[];
  readonly heldOut: readonly Document[];
}

/** The first 48 bits of the text's SHA-256, as a fraction in [0, 1). */
export function hashFraction(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** Leaves out documents whose text came before. */
export function withoutDuplicates(documents: readonly Document[]): Document[] {
  const seen = new Set<string>();
  return documents.filter(({ text }) => {
    const key = createHash("sha256").update(text).digest("base64");
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

/**
 * Splits by what a document says: it lands on the same side on every machine, wherever it was found, and whatever else is there.
 * @param heldOutShare of documents, 0 to 1
 */
export function splitByHash(documents: readonly Document[], heldOutShare: number): Split {
  const isHeldOut = (document: Document) => hashFraction(document.text) < heldOutShare;
  return { train: documents.filter((each) => !isHeldOut(each)), heldOut: documents.filter(isHeldOut) };
}

/** Order by hash: packages mix, so that any beginning of the corpus is a sample of all of it. */
export function inHashOrder(documents: readonly Document[]): Document[] {
  return documents
    .map((document) => ({ document, key: hashFraction(document.text) }))
    .sort((a, b) => a.key - b.key)
    .map(({ document }) => document);
}
