import type { SceneAttributes, SceneObject } from "../types.js";
import type { Choices } from "./random.js";
import { COUNTS, placePhrases, plural, RELATIONS, type Relation, SHAPES, type ShapeName, SIZES } from "./vocabulary.js";

/** How often people leave things out; the rest of the style is how they vary their words. */
const said = { size: 0.55, colour: 0.96, place: 0.6, opener: 0.3, relation: 0.75 } as const;

/** What each later synonym is rarer by. */
const synonymDecay = 0.35;

/** A caption as one person might write it: attributes left out, words varied, one of several orders. */
export function describe({ objects }: SceneAttributes, choices: Choices): string {
  const [first, second] = objects;
  if (!first) return "an empty picture";
  const same = second !== undefined && first.shape === second.shape && first.colour === second.colour;
  let body: string;
  if (same) body = several(objects, choices);
  else if (second === undefined) body = withPlace(first, choices, said.place);
  else body = two(first, second, choices);
  const openers = same
    ? ["there are", "a picture of", "we see"]
    : ["there is", "a picture of", "an image of", "this shows"];
  return choices.chance(said.opener) ? `${choices.pick(openers, 0.6)} ${body}` : body;
}

function several(objects: readonly SceneObject[], choices: Choices): string {
  const { shape, ...look } = objects[0]!;
  const noun = plural(choices.pick(SHAPES[shape as ShapeName], synonymDecay));
  const words = [...adjectives(look, choices), noun].join(" ");
  if (objects.length === 2 && choices.chance(0.3)) return `a pair of ${words}`;
  return `${COUNTS[objects.length - 2]} ${words}`;
}

function two(a: SceneObject, b: SceneObject, choices: Choices): string {
  const [first, second] = choices.chance(0.5) ? [a, b] : [b, a];
  if (!choices.chance(said.relation)) {
    return `${withPlace(first, choices, 0.4)} and ${withPlace(second, choices, 0.4)}`;
  }
  const relation = choices.pick(relationsOf(first, second));
  const words = choices.pick(RELATIONS[relation], synonymDecay);
  const [one, other] = [nounPhrase(first, choices), nounPhrase(second, choices)];
  if (choices.chance(0.2)) {
    const inverse = choices.pick(RELATIONS[opposite[relation]], synonymDecay);
    return `${one} with ${other} ${inverse} it`;
  }
  return choices.chance(0.25) ? `${one} is ${words} ${other}` : `${one} ${words} ${other}`;
}

const opposite: Readonly<Record<Relation, Relation>> = {
  left: "right",
  right: "left",
  above: "below",
  below: "above",
};

/** What is true of where `a` stands against `b`. */
export function relationsOf(
  a: Pick<SceneObject, "row" | "column">,
  b: Pick<SceneObject, "row" | "column">,
): Relation[] {
  const relations: Relation[] = [];
  if (a.column < b.column) relations.push("left");
  if (a.column > b.column) relations.push("right");
  if (a.row < b.row) relations.push("above");
  if (a.row > b.row) relations.push("below");
  return relations;
}

function withPlace(object: SceneObject, choices: Choices, probability: number): string {
  const phrase = nounPhrase(object, choices);
  if (!choices.chance(probability)) return phrase;
  return `${phrase} ${choices.pick(placePhrases(object.row, object.column), synonymDecay)}`;
}

function nounPhrase({ shape, ...look }: SceneObject, choices: Choices): string {
  const words = [...adjectives(look, choices), choices.pick(SHAPES[shape as ShapeName], synonymDecay)].join(" ");
  return `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`;
}

function adjectives({ size, colour }: Pick<SceneObject, "size" | "colour">, choices: Choices): string[] {
  return [
    ...(choices.chance(said.size) ? [choices.pick(SIZES[size], synonymDecay)] : []),
    ...(choices.chance(said.colour) ? [colour] : []),
  ];
}
