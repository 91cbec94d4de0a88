import { SynthError } from "../errors.js";
import type { PairedDataset } from "../types.js";
import { SPLITS, type Split, WorldDataset, type WorldName } from "../world/index.js";
import { PreparedDataset } from "./prepared.js";

/** Names of worlds as users write them. */
const worldsBySpec: ReadonlyMap<string, WorldName> = new Map([
  ["world", "full"],
  ["small-world", "small"],
]);

/** A dataset, what tells it from others, and how to let go of it. */
export interface OpenDataset extends AsyncDisposable {
  dataset: PairedDataset;
  /** Equal for equal content: part of what a resumed run must find again. */
  hash: string;
}

/**
 * Opens images with captions: a folder made by `synth2 prepare`, or scenes of the built-in world named `world:SPLIT:COUNT` (or
 * `small-world:SPLIT:COUNT`) with `:SEED` behind it if it is not 0.
 * @param size width and height that pictures must have, pixels. Default: as they are, 64 for those of the world
 * @throws SynthError `SYNTH_OPTIONS` for a world that does not exist, `SYNTH_DATA` for a folder that cannot be read or has another size
 */
export async function openDataset(spec: string, size?: number): Promise<OpenDataset> {
  const [name = "", ...rest] = spec.split(":");
  const world = worldsBySpec.get(name);
  if (world === undefined || rest.length === 0) {
    const dataset = await PreparedDataset.open(spec);
    if (size !== undefined && dataset.size !== size) {
      await dataset[Symbol.asyncDispose]();
      throw new SynthError(
        "SYNTH_DATA",
        `${spec} holds pictures of ${dataset.size} × ${dataset.size}, but ${size} × ${size} are needed: run synth2 prepare with --size ${size}`,
      );
    }
    return { dataset, hash: dataset.hash, [Symbol.asyncDispose]: () => dataset[Symbol.asyncDispose]() };
  }
  const [, split, length, seed = "0"] = /^[\w-]+:(\w+):(\d+)(?::(\d+))?$/.exec(spec) ?? [];
  if (!SPLITS.includes(split as Split) || !(Number(length) > 0)) {
    throw new SynthError(
      "SYNTH_OPTIONS",
      `${spec} is no world: write world:SPLIT:COUNT or world:SPLIT:COUNT:SEED (or small-world:…), where SPLIT is ${SPLITS.join(", ")}`,
    );
  }
  const options = { world, split: split as Split, length: Number(length), seed: Number(seed), size: size ?? 64 };
  return {
    dataset: new WorldDataset(options),
    hash: `world-1 ${JSON.stringify(options)}`,
    [Symbol.asyncDispose]: async () => undefined,
  };
}
