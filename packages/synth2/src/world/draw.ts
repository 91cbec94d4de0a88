import type { RgbImage, SceneAttributes, SceneObject } from "../types.js";
import type { Choices } from "./random.js";
import { BACKGROUND, COLOURS, type ColourName, type ShapeName, type SizeName } from "./vocabulary.js";

/** Distance from the centre to the outline, in cells of the 3 × 3 grid. */
export const RADII: Readonly<Record<SizeName, number>> = { small: 0.25, large: 0.4 };
/** Samples along each side of a pixel: coverage has 17 levels. */
const samples = 4;

/** Whether a point is inside, with the centre at 0, up positive, the outline at distance 1. */
export const INSIDE: Readonly<Record<ShapeName, (x: number, up: number) => boolean>> = {
  circle: (x, up) => x * x + up * up <= 1,
  square: (x, up) => Math.max(Math.abs(x), Math.abs(up)) <= 0.9,
  triangle: (x, up) => Math.max(0.866 * Math.abs(x) + 0.5 * up, -up) <= 0.55,
  star: (x, up) => {
    // Folded onto half a point: an edge from the tip (0°, 1) to the notch (36°, 0.42).
    const fifth = (2 * Math.PI) / 5;
    const angle = Math.atan2(x, up);
    const folded = Math.abs(angle - fifth * Math.round(angle / fifth));
    const radius = Math.hypot(x, up);
    const [px, py] = [radius * Math.sin(folded), radius * Math.cos(folded)];
    const [nx, ny] = [0.42 * Math.sin(fifth / 2), 0.42 * Math.cos(fifth / 2)];
    return nx * (py - 1) - px * (ny - 1) <= 0;
  },
  cross: (x, up) => {
    const [a, b] = [Math.abs(x), Math.abs(up)];
    return Math.max(a, b) <= 0.95 && Math.min(a, b) <= 0.3;
  },
  ring: (x, up) => {
    const squared = x * x + up * up;
    return squared <= 1 && squared >= 0.52 * 0.52;
  },
};

/** Where in its cell each object stands. */
export interface Jitter {
  choices: Choices;
  /** How far off the middle at most, in cells. */
  reach: number;
}

/**
 * Draws a scene, anti-aliased.
 * @param size width and height in pixels
 * @param jitter without it objects stand in the middle of their cells
 */
export function drawPicture({ objects }: SceneAttributes, size: number, jitter?: Jitter): RgbImage {
  const pixels = new Uint8Array(size * size * 3);
  for (let i = 0; i < pixels.length; i += 3) pixels.set(BACKGROUND, i);
  for (const object of objects) drawObject(object, pixels, size, jitter);
  return { width: size, height: size, pixels };
}

function drawObject(object: SceneObject, pixels: Uint8Array, size: number, jitter?: Jitter): void {
  const cell = size / 3;
  const offset = () => (jitter ? jitter.reach * (2 * jitter.choices.next() - 1) : 0);
  const [x, y] = [(object.column + 0.5 + offset()) * cell, (object.row + 0.5 + offset()) * cell];
  const colour = COLOURS[object.colour as ColourName];
  paint(object.shape as ShapeName, x, y, RADII[object.size] * cell, size, (at, coverage) => {
    for (let c = 0; c < 3; c++) {
      const before = pixels[3 * at + c]!;
      pixels[3 * at + c] = Math.round(before + (colour[c]! - before) * coverage);
    }
  });
}

/** Calls back every pixel that the shape touches, with the share of it that is covered. */
function paint(
  shape: ShapeName,
  x: number,
  y: number,
  radius: number,
  size: number,
  onPixel: (at: number, coverage: number) => void,
): void {
  const inside = INSIDE[shape];
  const reach = radius * 1.15;
  const clip = (value: number) => Math.max(0, Math.min(size - 1, Math.floor(value)));
  for (let row = clip(y - reach); row <= clip(y + reach); row++) {
    for (let column = clip(x - reach); column <= clip(x + reach); column++) {
      let covered = 0;
      for (let i = 0; i < samples * samples; i++) {
        const px = column + ((i % samples) + 0.5) / samples;
        const py = row + (Math.floor(i / samples) + 0.5) / samples;
        if (inside((px - x) / radius, (y - py) / radius)) covered++;
      }
      if (covered > 0) onPixel(row * size + column, covered / (samples * samples));
    }
  }
}
