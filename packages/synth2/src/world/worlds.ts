import { type ColourName, colourNames, type ShapeName, shapeNames } from "./vocabulary.js";

/** What scenes of a world are made of. */
export interface World {
  shapes: readonly ShapeName[];
  colours: readonly ColourName[];
  /** How many objects may be alike. */
  counts: readonly number[];
  /** Objects stand off the centre of their cell by up to this, in cells. */
  jitter: number;
}

/**
 * `full`: all colours and shapes, up to four objects; `small`: one or two objects of fewer looks in the middle of their cells, which
 * models of minutes learn.
 */
export const WORLDS = {
  full: { shapes: shapeNames, colours: colourNames, counts: [2, 3, 4], jitter: 0.04 },
  small: {
    shapes: ["circle", "square", "triangle", "cross"],
    colours: ["red", "green", "blue", "yellow", "purple", "orange"],
    counts: [2],
    jitter: 0,
  },
} as const satisfies Readonly<Record<string, World>>;

export type WorldName = keyof typeof WORLDS;
