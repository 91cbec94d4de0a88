import { createHash } from "node:crypto";
import { functionReward, type Reward } from "../stages/index.js";
import { gold, promptNormal } from "../task/index.js";
import type { Cell } from "./plan.js";

/** Rewards are rounded to multiples of 2^-20: sums and differences of them are exact, so offsets cancel to the last bit. */
const grain = 2 ** 20;
const rounded = (value: number): number => Math.round(value * grain) / grain;

/** A response that reaches this quality is good, for the binary noise model: about two in five of the SFT policy do. */
const goodQuality = 1;

/** Uniform in [0, 1), of nothing but its arguments. */
const uniform = (...key: (string | number)[]): number =>
  createHash("sha256").update(JSON.stringify(key)).digest().readUInt32LE(0) / 2 ** 32;

interface TaskSample {
  promptText: string;
  responseText: string;
  ended: boolean;
}

/** True quality as a cell judges it: 0 or 1 under binary noise. */
export function cellGold(cell: Cell, { promptText, responseText, ended }: TaskSample): number {
  const quality = gold(promptText, responseText, ended);
  return cell.kind === "binary" ? Number(quality >= goodQuality) : quality;
}

/** What a cell without a reward model rewards. */
export function syntheticReward(cell: Extract<Cell, { kind: "offset" | "binary" }>, seed: number): Reward {
  if (cell.kind === "offset") {
    const { sigma } = cell;
    const name = `true quality with offset ${sigma}`;
    return functionReward(name, `${name} ${seed}`, (samples) =>
      samples.map((sample) => rounded(cellGold(cell, sample)) + rounded(sigma * promptNormal(sample.promptText, seed))),
    );
  }
  const { level } = cell;
  const name = `binary noise ${level}`;
  // Flips belong to a response: asked twice, the reward says the same.
  const noisy = (sample: TaskSample): number => {
    const { promptText, responseText, ended } = sample;
    const quality = cellGold(cell, sample);
    const rate = 2 * level * uniform(seed, promptText, quality === 0 ? "false positive" : "false negative");
    return uniform(seed, promptText, responseText, ended ? 1 : 0) < rate ? 1 - quality : quality;
  };
  return functionReward(name, `${name} ${seed}`, (samples) => samples.map(noisy));
}
