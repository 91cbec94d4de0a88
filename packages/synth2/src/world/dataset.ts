import type { PairedDataset, PairedSample } from "../types.js";
import { describe } from "./describe.js";
import { drawPicture } from "./draw.js";
import { Choices } from "./random.js";
import { drawScene, type Split } from "./scene.js";
import { WORLDS, type WorldName } from "./worlds.js";

export interface WorldOptions {
  /** Default: full. */
  world?: WorldName;
  split: Split;
  length: number;
  /** Width and height, pixels: 64 or 128 are meant; at 48 the judge reads 98 % of true pictures exactly. */
  size?: number;
  seed?: number;
  captionsPerScene?: number;
}

/** Bytes of pictures that a dataset keeps. */
const kept = 64 * 2 ** 20;

/** Pictures of the built-in world, drawn when they are asked for, the first of them kept: the same index gives the same sample. */
export class WorldDataset implements PairedDataset {
  readonly length: number;
  readonly size: number;
  readonly #options: Required<WorldOptions>;
  readonly #drawn = new Map<number, PairedSample>();

  constructor(options: WorldOptions) {
    this.#options = { world: "full", size: 64, seed: 0, captionsPerScene: 5, ...options };
    this.length = options.length;
    this.size = this.#options.size;
  }

  /** @throws RangeError when the index is outside */
  async get(index: number): Promise<PairedSample> {
    if (!Number.isInteger(index) || index < 0 || index >= this.length) {
      throw new RangeError(`sample ${index} of ${this.length}`);
    }
    const found = this.#drawn.get(index);
    if (found) return found;
    const sample = this.#draw(index);
    if ((this.#drawn.size + 1) * sample.image.length <= kept) this.#drawn.set(index, sample);
    return sample;
  }

  #draw(index: number): PairedSample {
    const { world, split, seed, size, captionsPerScene } = this.#options;
    const attributes = drawScene(split, seed, index, world);
    // Streams of their own: scenes use the first, positions and words those after the splits.
    const { pixels } = drawPicture(attributes, size, {
      choices: new Choices(seed, index, 16, splitKey[split]),
      reach: WORLDS[world].jitter,
    });
    const words = new Choices(seed, index, 17, splitKey[split]);
    const captions = Array.from({ length: captionsPerScene }, () => describe(attributes, words));
    return { id: `${split}-${seed}-${index}`, image: pixels, captions, attributes };
  }
}

const splitKey: Readonly<Record<Split, number>> = { paired: 0, test: 1, balanced: 2, novel: 3 };
