import {
  COLOURS,
  COUNTS,
  OPENERS,
  placePhrases,
  plural,
  RELATIONS,
  type Relation,
  SHAPES,
  SIZES,
  type SizeName,
} from "./vocabulary.js";

/** What a caption says of one object, or of several alike; unsaid attributes are missing. */
export interface SaidObject {
  shape: string;
  colour?: string;
  size?: SizeName;
  row?: number;
  column?: number;
  /** 1 without a number word. */
  count: number;
}

export interface CaptionMeaning {
  objects: SaidObject[];
  /** Where the first object stands against the second. */
  relation?: Relation;
}

interface Phrase<T> {
  words: readonly string[];
  value: T;
}

const phrases = <T>(entries: Iterable<readonly [string, T]>): Phrase<T>[] =>
  [...entries]
    .map(([text, value]) => ({ words: text.split(" "), value }))
    .sort((a, b) => b.words.length - a.words.length);

const nouns = new Map(
  Object.entries(SHAPES).flatMap(([shape, names]) =>
    names.flatMap((name): [string, { shape: string; many: boolean }][] => [
      [name, { shape, many: false }],
      [plural(name), { shape, many: true }],
    ]),
  ),
);
const sizes = new Map(
  Object.entries(SIZES).flatMap(([size, names]) => names.map((name) => [name as string, size as SizeName] as const)),
);
const places = phrases(
  Array.from({ length: 9 }, (_, cell) => ({ row: Math.floor(cell / 3), column: cell % 3 })).flatMap((place) =>
    placePhrases(place.row, place.column).map((text) => [text, place] as const),
  ),
);
const relations = phrases(
  Object.entries(RELATIONS).flatMap(([relation, names]) => names.map((name) => [name, relation as Relation] as const)),
);
const openers = phrases(OPENERS.map((text) => [text, true] as const));
const numbers = new Map<string, number>([["a", 1], ["an", 1], ...COUNTS.map((word, i) => [word, i + 2] as const)]);

const inverse: Readonly<Record<Relation, Relation>> = { left: "right", right: "left", above: "below", below: "above" };

/**
 * Reads a caption of the built-in world.
 * @returns undefined when it does not follow the grammar
 */
export function parseCaption(caption: string): CaptionMeaning | undefined {
  const words = caption
    .toLowerCase()
    .replace(/[.,!]/g, " ")
    .split(/\s+/)
    .filter((word) => word !== "");
  // Captions are short; whatever is longer is not one, and costs no time here.
  if (words.length === 0 || words.length > 40) return undefined;
  return new Reader(words).caption();
}

class Reader {
  #at = 0;

  constructor(readonly words: readonly string[]) {}

  caption(): CaptionMeaning | undefined {
    this.#oneOf(openers);
    const first = this.#object();
    if (!first) return undefined;
    if (this.#ended) return { objects: [first] };
    if (this.#word("with")) {
      const second = this.#object();
      const relation = second && this.#oneOf(relations);
      return second && relation && this.#word("it") && this.#ended
        ? { objects: [first, second], relation: inverse[relation] }
        : undefined;
    }
    if (this.#word("and")) {
      const second = this.#object();
      return second && this.#ended ? { objects: [first, second] } : undefined;
    }
    this.#word("is");
    const relation = this.#oneOf(relations);
    const second = relation && this.#object();
    return second && this.#ended ? { objects: [first, second], relation } : undefined;
  }

  get #ended(): boolean {
    return this.#at === this.words.length;
  }

  #word(word: string): boolean {
    if (this.words[this.#at] !== word) return false;
    this.#at++;
    return true;
  }

  #oneOf<T>(list: readonly Phrase<T>[]): T | undefined {
    const found = list.find(({ words }) => words.every((word, i) => this.words[this.#at + i] === word));
    if (found) this.#at += found.words.length;
    return found?.value;
  }

  #object(): SaidObject | undefined {
    const pair = ["a", "pair", "of"].every((word, i) => this.words[this.#at + i] === word);
    let count = 2;
    if (pair) this.#at += 3;
    else {
      const number = numbers.get(this.words[this.#at] ?? "");
      if (number === undefined) return undefined;
      count = number;
      this.#at++;
    }
    const size = sizes.get(this.words[this.#at] ?? "");
    if (size) this.#at++;
    const word = this.words[this.#at] ?? "";
    const colour = Object.hasOwn(COLOURS, word) ? word : undefined;
    if (colour) this.#at++;
    const noun = nouns.get(this.words[this.#at] ?? "");
    if (!noun || noun.many !== count > 1) return undefined;
    this.#at++;
    // "on the left of" is a relation, "on the left" a place.
    const before = this.#at;
    const relation = this.#oneOf(relations);
    this.#at = before;
    const place = relation ? undefined : this.#oneOf(places);
    return { shape: noun.shape, ...(colour && { colour }), ...(size && { size }), ...place, count };
  }
}
