import type { RgbImage, SceneAttributes, SceneObject } from "../types.js";
import { INSIDE, RADII } from "./draw.js";
import { BACKGROUND, COLOURS, colourNames, type ShapeName, shapeNames, sizeNames } from "./vocabulary.js";

const palette = [BACKGROUND, ...colourNames.map((name) => COLOURS[name])];
/** Pixels nearer the background than this (squared distance in 8-bit RGB) belong to no object. */
const nearBackground = 70 ** 2;
/** Specks smaller than this share of a cell's area are not objects. */
const speck = 0.03;

/**
 * What a picture of the built-in world shows, seen without any learned model: connected regions that are not background, their most
 * frequent colour, and the shape and size whose drawing overlaps them best. Only for evaluation: no training stage sees it.
 */
export function judgePicture({ pixels, width, height }: RgbImage): SceneAttributes {
  const labels = new Int8Array(width * height);
  for (let i = 0; i < labels.length; i++) labels[i] = nearestColour(pixels, 3 * i);
  const cell = width / 3;
  const objects = regions(labels, width, height)
    .filter((region) => region.length >= speck * cell * cell)
    .map((region) => recognise(region, labels, width));
  return { objects };
}

/** Index into the palette: 0 is background. */
function nearestColour(pixels: Uint8Array, at: number): number {
  let best = 0;
  let least = Number.POSITIVE_INFINITY;
  palette.forEach(([r, g, b], i) => {
    const distance = (pixels[at]! - r) ** 2 + (pixels[at + 1]! - g) ** 2 + (pixels[at + 2]! - b) ** 2;
    if (i === 0 && distance < nearBackground) least = -1;
    else if (distance < least) [best, least] = [i, distance];
  });
  return best;
}

/** Pixels of each 4-connected region that is not background. */
function regions(labels: Int8Array, width: number, height: number): number[][] {
  const seen = new Uint8Array(labels.length);
  const found: number[][] = [];
  for (let start = 0; start < labels.length; start++) {
    if (labels[start] === 0 || seen[start]) continue;
    const region = [start];
    seen[start] = 1;
    for (let i = 0; i < region.length; i++) {
      const at = region[i]!;
      const [row, column] = [Math.floor(at / width), at % width];
      for (const [r, c] of [
        [row - 1, column],
        [row + 1, column],
        [row, column - 1],
        [row, column + 1],
      ] as const) {
        const next = r * width + c;
        if (r < 0 || c < 0 || r >= height || c >= width || seen[next] || labels[next] === 0) continue;
        seen[next] = 1;
        region.push(next);
      }
    }
    found.push(region);
  }
  return found;
}

function recognise(region: readonly number[], labels: Int8Array, width: number): SceneObject {
  const votes = new Int32Array(palette.length);
  for (const at of region) votes[labels[at]!]!++;
  const colour = colourNames[votes.indexOf(Math.max(...votes)) - 1]!;
  const centroid = { x: 0, y: 0 };
  for (const at of region) {
    centroid.x += (at % width) + 0.5;
    centroid.y += Math.floor(at / width) + 0.5;
  }
  const [x, y] = [centroid.x / region.length, centroid.y / region.length];
  const cell = width / 3;
  const place = (value: number) => Math.max(0, Math.min(2, Math.floor(value / cell)));
  const mask = new Uint8Array(labels.length);
  for (const at of region) mask[at] = 1;
  let best = { overlap: -1, shape: shapeNames[0]!, size: sizeNames[0]! };
  for (const shape of shapeNames) {
    for (const size of sizeNames) {
      const overlap = bestOverlap(mask, region.length, shape, x, y, RADII[size] * cell, width);
      if (overlap > best.overlap) best = { overlap, shape, size };
    }
  }
  return { shape: best.shape, size: best.size, colour, row: place(y), column: place(x) };
}

/** Intersection over union of a region with a shape drawn near its centroid, best over small shifts. */
function bestOverlap(
  mask: Uint8Array,
  area: number,
  shape: ShapeName,
  x: number,
  y: number,
  radius: number,
  width: number,
): number {
  const inside = INSIDE[shape];
  const reach = Math.ceil(radius * 1.1);
  // Blurred pictures shift a little.
  const shift = Math.max(0.5, radius * 0.06);
  let best = 0;
  for (const dx of [-shift, 0, shift]) {
    for (const dy of [-shift, 0, shift]) {
      const [cx, cy] = [x + dx, y + dy];
      let [both, drawn] = [0, 0];
      for (let row = Math.floor(cy - reach); row <= cy + reach; row++) {
        for (let column = Math.floor(cx - reach); column <= cx + reach; column++) {
          if (!inside((column + 0.5 - cx) / radius, (cy - row - 0.5) / radius)) continue;
          drawn++;
          if (row >= 0 && column >= 0 && column < width) both += mask[row * width + column] ?? 0;
        }
      }
      best = Math.max(best, both / (area + drawn - both));
    }
  }
  return best;
}
