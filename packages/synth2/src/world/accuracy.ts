import type { SceneAttributes, SceneObject } from "../types.js";
import { relationsOf } from "./describe.js";
import { type CaptionMeaning, parseCaption, type SaidObject } from "./parse.js";

export const ATTRIBUTES = ["shape", "colour", "size", "place", "count", "relation"] as const;
export type Attribute = (typeof ATTRIBUTES)[number];

/** How often an attribute was said, and how often it was true. */
export type Tally = Record<Attribute, { said: number; correct: number }>;

export interface Verdict {
  tally: Tally;
  /** Everything said is true, and every object is said. */
  exact: boolean;
}

/** Objects alike in colour and shape, which a caption counts. */
interface Group {
  objects: SceneObject[];
}

const emptyTally = (): Tally => Object.fromEntries(ATTRIBUTES.map((name) => [name, { said: 0, correct: 0 }])) as Tally;

function groupsOf({ objects }: SceneAttributes): Group[] {
  const groups = new Map<string, Group>();
  for (const object of objects) {
    const key = `${object.colour} ${object.shape}`;
    const group = groups.get(key);
    if (group) group.objects.push(object);
    else groups.set(key, { objects: [object] });
  }
  return [...groups.values()];
}

/** What is true of a caption about a scene, with said objects matched to those that fit best. */
export function checkMeaning(meaning: CaptionMeaning, scene: SceneAttributes): Verdict {
  const groups = groupsOf(scene);
  let best: Verdict | undefined;
  let bestCorrect = -1;
  for (const matched of matchings(meaning.objects.length, groups)) {
    const verdict = judgeMatching(meaning, matched, groups.length);
    const correct = ATTRIBUTES.reduce((sum, name) => sum + verdict.tally[name].correct, 0);
    if (correct > bestCorrect) [best, bestCorrect] = [verdict, correct];
  }
  return best!;
}

/** Every way to give each said object a group of its own, or none where there are fewer groups. */
function matchings(said: number, groups: readonly Group[]): (Group | undefined)[][] {
  if (said === 0) return [[]];
  const free: (Group | undefined)[] = groups.length === 0 ? [undefined] : [...groups];
  if (said > groups.length && groups.length > 0) free.push(undefined);
  return free.flatMap((group) =>
    matchings(
      said - 1,
      groups.filter((other) => other !== group),
    ).map((rest) => [group, ...rest]),
  );
}

function judgeMatching({ objects, relation }: CaptionMeaning, matched: (Group | undefined)[], groups: number): Verdict {
  const tally = emptyTally();
  const note = (name: Attribute, correct: boolean): void => {
    tally[name].said++;
    if (correct) tally[name].correct++;
  };
  objects.forEach((said, i) => {
    checkObject(said, matched[i]?.objects ?? [], note);
  });
  if (relation) {
    const [a, b] = matched.map((group) => group?.objects[0]);
    note("relation", a !== undefined && b !== undefined && relationsOf(a, b).includes(relation));
  }
  const allTrue = ATTRIBUTES.every((name) => tally[name].said === tally[name].correct);
  return { tally, exact: allTrue && objects.length === groups };
}

function checkObject(said: SaidObject, found: SceneObject[], note: (name: Attribute, correct: boolean) => void): void {
  const [one] = found;
  note("shape", one?.shape === said.shape);
  note("count", found.length === said.count);
  if (said.colour) note("colour", one?.colour === said.colour);
  if (said.size) note("size", found.length > 0 && found.every(({ size }) => size === said.size));
  if (said.row !== undefined) note("place", one?.row === said.row && one.column === said.column);
}

export interface AttributeAccuracy {
  /** True among said, per attribute; NaN where none was said. */
  accuracy: Record<Attribute, number>;
  /** Share of captions that follow the grammar. */
  grammatical: number;
  /** Share of captions of which everything is true and that name every object; ungrammatical ones count as false. */
  exact: number;
}

/**
 * Accuracy of captions about known scenes: for captioners, truth against their captions; for generators, what the judge sees in a
 * picture against its prompt.
 */
export function attributeAccuracy(pairs: readonly { caption: string; scene: SceneAttributes }[]): AttributeAccuracy {
  const total = emptyTally();
  let [grammatical, exact] = [0, 0];
  for (const { caption, scene } of pairs) {
    const meaning = parseCaption(caption);
    if (!meaning) continue;
    grammatical++;
    const verdict = checkMeaning(meaning, scene);
    if (verdict.exact) exact++;
    for (const name of ATTRIBUTES) {
      total[name].said += verdict.tally[name].said;
      total[name].correct += verdict.tally[name].correct;
    }
  }
  const accuracy = Object.fromEntries(
    ATTRIBUTES.map((name) => [name, total[name].correct / total[name].said]),
  ) as Record<Attribute, number>;
  return { accuracy, grammatical: grammatical / pairs.length, exact: exact / pairs.length };
}
