import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { dpo, type PreferenceText, ppo, reward, sft, taskDemonstrations } from "../../src/index.js";
import { letterReward, ppoSettings, prompts, temporaryFolder, texts, training, trainSmallPolicy } from "./small.js";

// Megabytes: enough for the small policy's own training.
vi.spyOn(process, "constrainedMemory").mockReturnValue(8e6);

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let policy: string;
beforeAll(async () => {
  folder = await temporaryFolder();
  policy = await trainSmallPolicy(folder.path, 2);
}, 60_000);
afterAll(async () => await folder[Symbol.asyncDispose]());

const settings = training(10, { batch: 2048 });
const preferences: PreferenceText[] = texts.map((text) => ({ ...text, chosen: "ab", rejected: "c", margin: 0 }));

test.each<[string, (at: { output: string; run: string }) => Promise<unknown>]>([
  [
    "sft",
    (at) =>
      sft({
        from: policy,
        demonstrations: taskDemonstrations(prompts.training, 0.3, 1),
        trainOnPrompts: false,
        settings,
        ...at,
      }),
  ],
  ["reward", (at) => reward({ from: policy, preferences, heldOut: 0, centre: 0, normalise: "none", settings, ...at })],
  ["dpo", (at) => dpo({ policy, preferences, beta: 0.1, form: { kind: "sigmoid" }, settings, ...at })],
  [
    "ppo",
    (at) =>
      ppo({
        policy,
        rewards: letterReward,
        prompts: texts,
        settings: ppoSettings({ promptsPerIteration: 2048, minibatch: 2048 }),
        ...at,
      }),
  ],
])("%s: a step that no memory holds is refused before the run begins", async (name, start) => {
  const at = { output: join(folder.path, `${name}-late`), run: join(folder.path, `${name}-late-run`) };
  await expect(start(at)).rejects.toMatchObject({
    code: "TREFOIL_OUT_OF_MEMORY",
    message: expect.stringContaining("use a smaller batch or shorter rows"),
  });
  expect(existsSync(at.run)).toBe(false);
});
