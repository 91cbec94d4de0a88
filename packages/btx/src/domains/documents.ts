import { createHash } from "node:crypto";
import { InitialValues } from "@trefoil/core";

/** A text of a domain. */
export interface DomainDocument {
  /** What tells near copies: documents with one key land on the same side of the split. */
  readonly key: string;
  readonly text: string;
}

/** Documents of a domain, those held out never seen in training. */
export interface DomainSplit {
  readonly train: readonly DomainDocument[];
  readonly heldOut: readonly DomainDocument[];
}

/** The first 48 bits of the text's SHA-256, as a fraction in [0, 1). */
function hashFraction(text: string): number {
  return createHash("sha256").update(text).digest().readUIntBE(0, 6) / 2 ** 48;
}

/** Remembers texts and tells whether one came before. */
export class SeenTexts {
  readonly #hashes = new Set<string>();

  /** True the first time. */
  add(text: string): boolean {
    const hash = createHash("sha256").update(text).digest("base64");
    if (this.#hashes.has(hash)) return false;
    this.#hashes.add(hash);
    return true;
  }
}

/** Whether a question is never trained on: the same ones whatever else there is. @param heldOutShare 0 to 1 */
export const isHeldOutPrompt = (prompt: string, heldOutShare: number): boolean =>
  hashFraction(`held out ${prompt}`) < heldOutShare;

/** Texts of one side each, of which documents are drawn. */
export interface GeneratedSides {
  readonly name: string;
  readonly train: readonly string[];
  readonly heldOut: readonly string[];
}

const textsPerDocument = 64;

/** Documents of texts drawn at random, `bytes` of them to train on, the held-out share on top. */
export function drawDocuments(
  { name, train, heldOut }: GeneratedSides,
  { bytes, heldOutShare, seed = 0 }: { bytes: number; heldOutShare: number; seed?: number },
): DomainSplit {
  const draw = (side: readonly string[], sideBytes: number, stream: number): DomainDocument[] => {
    const random = new InitialValues(2 * seed + stream);
    const documents: DomainDocument[] = [];
    for (let written = 0; side.length > 0 && written < sideBytes; ) {
      const text = Array.from({ length: textsPerDocument }, () => side[Math.floor(random.next() * side.length)]!).join(
        "",
      );
      documents.push({ key: `${name} ${documents.length}`, text });
      written += Buffer.byteLength(text);
    }
    return documents;
  };
  return { train: draw(train, bytes, 0), heldOut: draw(heldOut, bytes * heldOutShare, 1) };
}

/**
 * In the order of a hash: packages mix, so that any beginning of the list is a sample of all of it, the same
 * everywhere.
 */
export function inHashOrder<T>(items: readonly T[], keyOf: (item: T) => string): T[] {
  return items
    .map((item) => ({ item, order: hashFraction(keyOf(item)) }))
    .sort((a, b) => a.order - b.order)
    .map(({ item }) => item);
}

/**
 * Splits by key: a document lands on the same side on every machine, whatever else is there.
 * @param heldOutShare 0 to 1
 */
export function splitByKey(documents: readonly DomainDocument[], heldOutShare: number): DomainSplit {
  const isHeldOut = ({ key }: DomainDocument) => isHeldOutPrompt(key, heldOutShare);
  return { train: documents.filter((each) => !isHeldOut(each)), heldOut: documents.filter(isHeldOut) };
}
