/** What the built-in world is made of, and the words for it; the first word of each list is the name. */

export const SHAPES = {
  circle: ["circle", "disc"],
  square: ["square", "box"],
  triangle: ["triangle"],
  star: ["star"],
  cross: ["cross", "plus"],
  ring: ["ring", "hoop"],
} as const;

/** 8-bit red, green, blue. */
export const COLOURS = {
  red: [222, 48, 44],
  green: [58, 172, 72],
  blue: [48, 92, 226],
  yellow: [238, 208, 48],
  purple: [152, 66, 192],
  orange: [242, 138, 36],
  cyan: [64, 196, 208],
  white: [242, 242, 242],
} as const;

export const BACKGROUND = [40, 42, 48] as const;

export const SIZES = {
  small: ["small", "little", "tiny"],
  large: ["large", "big", "huge"],
} as const;

export const COUNTS = ["two", "three", "four"] as const;

export type ShapeName = keyof typeof SHAPES;
export type ColourName = keyof typeof COLOURS;
export type SizeName = keyof typeof SIZES;

export const shapeNames = Object.keys(SHAPES) as ShapeName[];
export const colourNames = Object.keys(COLOURS) as ColourName[];
export const sizeNames = Object.keys(SIZES) as SizeName[];

const plurals: Readonly<Record<string, string>> = { box: "boxes", cross: "crosses", plus: "pluses" };
export const plural = (noun: string): string => plurals[noun] ?? `${noun}s`;

/** Phrases for a cell of the grid, by row and column. */
export function placePhrases(row: number, column: number): string[] {
  const vertical = [["top", "upper"], ["middle"], ["bottom", "lower"]][row]!;
  const horizontal = ["left", "", "right"][column]!;
  if (row === 1 && column === 1) return ["in the middle", "in the center"];
  if (row === 1) return [`on the ${horizontal}`, `on the ${horizontal} side`];
  if (column === 1) return [`at the ${vertical[0]}`, `near the ${vertical[0]}`];
  return [
    ...vertical.map((word) => `in the ${word} ${horizontal}`),
    `in the ${vertical[0]} ${horizontal} corner`,
    `at the ${vertical[0]} ${horizontal}`,
  ];
}

export type Relation = "left" | "right" | "above" | "below";

export const RELATIONS: Readonly<Record<Relation, readonly string[]>> = {
  left: ["to the left of", "left of", "on the left of"],
  right: ["to the right of", "right of", "on the right of"],
  above: ["above", "over"],
  below: ["below", "under", "beneath"],
};

/** "There is" and the like: they say nothing of the scene. */
export const OPENERS = ["there is", "there are", "a picture of", "an image of", "we see", "this shows"] as const;
