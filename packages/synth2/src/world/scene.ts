import type { SceneAttributes, SceneObject } from "../types.js";
import { Choices } from "./random.js";
import { type ColourName, colourNames, type ShapeName, shapeNames, sizeNames } from "./vocabulary.js";
import { WORLDS, type World, type WorldName } from "./worlds.js";

/**
 * Which scenes: `paired` is small and skewed, and some combinations of colour and shape never occur in it; `test` is drawn like it;
 * `balanced` draws everything alike; every scene of `novel` holds a combination that `paired` never has.
 */
export const SPLITS = ["paired", "test", "balanced", "novel"] as const;
export type Split = (typeof SPLITS)[number];

/** Whether the paired set never shows this: a quarter of the combinations, every colour and every shape among the rest. */
export function isHeldOut(colour: string, shape: string): boolean {
  return (colourNames.indexOf(colour as ColourName) + shapeNames.indexOf(shape as ShapeName)) % 4 === 3;
}

export const isNovel = ({ objects }: SceneAttributes): boolean =>
  objects.some(({ colour, shape }) => isHeldOut(colour, shape));

/** All combinations of colour and shape of a world, as "red circle". */
export const classesOfWorld = (name: WorldName): readonly string[] =>
  WORLDS[name].colours.flatMap((colour) => WORLDS[name].shapes.map((shape) => `${colour} ${shape}`));

export const worldClasses = classesOfWorld("full");

/** How much rarer the next colour, shape, kind of scene or count is in the skewed splits. */
const skew = { colour: 0.72, shape: 0.75, kind: 0.7, count: 0.45, size: 0.5 } as const;
const even = { colour: 1, shape: 1, kind: 1, count: 1, size: 1 } as const;

/** The scene of `index`: the same for the same arguments, whatever was drawn before. */
export function drawScene(split: Split, seed: number, index: number, world: WorldName = "full"): SceneAttributes {
  const choices = new Choices(seed, index, SPLITS.indexOf(split));
  const decay = split === "paired" || split === "test" ? skew : even;
  for (;;) {
    const scene = drawAny(choices, decay, WORLDS[world]);
    const novel = isNovel(scene);
    if (split === "balanced" || novel === (split === "novel")) return scene;
  }
}

function drawAny(
  choices: Choices,
  decay: Readonly<Record<keyof typeof skew, number>>,
  { colours, shapes, counts }: World,
): SceneAttributes {
  const look = () => ({
    colour: choices.pick(colours, decay.colour),
    shape: choices.pick(shapes, decay.shape),
    size: choices.pick(sizeNames.toReversed(), decay.size),
  });
  const kind = choices.pick(["pair", "single", "count"], decay.kind);
  if (kind === "single") return { objects: place(choices, [look()]) };
  if (kind === "count") {
    const each = look();
    return { objects: place(choices, new Array(choices.pick(counts, decay.count)).fill(each)) };
  }
  const first = look();
  let second = look();
  while (second.colour === first.colour && second.shape === first.shape) second = look();
  return { objects: place(choices, [first, second]) };
}

/** Puts them on cells of their own. */
function place(choices: Choices, looks: readonly Omit<SceneObject, "row" | "column">[]): SceneObject[] {
  const cells = Array.from({ length: 9 }, (_, i) => i);
  return looks.map((look) => {
    const [cell = 0] = cells.splice(choices.below(cells.length), 1);
    return { ...look, row: Math.floor(cell / 3), column: cell % 3 };
  });
}

/** Scenes 0 to `length` of a split. */
export interface SceneRange {
  split: Split;
  seed: number;
  length: number;
}

/** Share of some scenes that stand among others too, in whatever order their objects are: worlds have few scenes of one object. */
export function shareAmong(some: SceneRange, others: SceneRange, world: WorldName): number {
  const keys = ({ split, seed, length }: SceneRange) =>
    Array.from({ length }, (_, i) => {
      const { objects } = drawScene(split, seed, i, world);
      return objects
        .map((object) => JSON.stringify(object))
        .sort()
        .join();
    });
  const known = new Set(keys(others));
  return keys(some).filter((key) => known.has(key)).length / some.length;
}
