import type { OpenPolicy, Sampler } from "../../models/index.js";
import type { RewardFunction } from "../rewards.js";
import { type Rollout, type RolloutSettings, rollOut } from "./rollout.js";

/** Random numbers of these responses: iterations count from 1, evaluations have the last. */
const sftStream = 0x7ffffffe;

/** True quality of one SFT response to each prompt that PPO draws, sampled when a prompt is first seen. */
export class SftQuality {
  readonly #known = new Map<string, Rollout>();

  /** @param sampler of the reference policy */
  constructor(
    readonly gold: RewardFunction,
    readonly reference: OpenPolicy,
    readonly sampler: Sampler,
    readonly settings: Omit<RolloutSettings, "stream">,
  ) {}

  /** One number per rollout; rollouts of a prompt are compared to the same response. */
  async of(rollouts: readonly Rollout[]): Promise<number[]> {
    const missing = new Map(
      rollouts.flatMap((each) => (this.#known.has(each.promptSha) ? [] : [[each.promptSha, each] as const])),
    );
    if (missing.size > 0) await this.#sample([...missing.values()]);
    // The quality may depend on the row, the response does not.
    const responses = rollouts.map(({ promptSha, row }) => ({ ...this.#known.get(promptSha)!, row }));
    return [...(await this.gold(responses))];
  }

  async #sample(first: readonly Rollout[]): Promise<void> {
    const prompts = first.map(({ prompt, promptText, row }) => ({
      tokens: prompt,
      prompt: promptText,
      row,
      line: 0,
      templated: false,
    }));
    const sampled = await rollOut(this.sampler, this.reference, prompts, 1, { ...this.settings, stream: sftStream });
    for (const each of sampled) this.#known.set(each.promptSha, each);
  }
}
