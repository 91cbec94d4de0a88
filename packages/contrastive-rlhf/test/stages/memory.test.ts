import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { defaultDevice } from "@trefoil/core";
import { describe, expect, test } from "vitest";
import { baselines, type PpoSettings, ppo } from "../../src/index.js";
import { letterReward, ppoSettings, rewardOf, sampler, temporaryFolder, texts, trainSmallPolicy } from "./small.js";

setFlagsFromString("--expose-gc");
const collectGarbage = runInNewContext("gc") as () => void;

// Two updates are under way at once. When both have batches of one size, their program gets room for the inputs of a second run, once and for
// good: 4 KB here. What a run leaves on the device has 64 KiB at least.
const secondRuns = 8 * 1024;

/** Live bytes of the device and resident ones of the process as each iteration asks for rewards. */
async function memoryOf(folder: string, policy: string, extra: Partial<PpoSettings>) {
  const seen: { live: number; resident: number }[] = [];
  const rewards = rewardOf("letters", async (samples) => {
    await defaultDevice().synchronize();
    collectGarbage();
    seen.push({ live: defaultDevice().memory().live, resident: process.memoryUsage().rss });
    return (await letterReward.score(samples as Parameters<typeof letterReward.score>[0])).total;
  });
  const settings = ppoSettings({ iterations: 13, checkpointEvery: 100, ...extra });
  const name = join(folder, settings.critic.kind + settings.baseline.kind);
  await ppo({ policy, rewards, prompts: texts, settings, output: name, run: `${name}-run` });
  return seen;
}

// A file, so a process, of its own: what other tests left to the garbage collector would change the counters.
describe("memory of PPO", () => {
  test("is the same after 3 and after 12 iterations, and a shared critic adds its head alone", async () => {
    await using folder = await temporaryFolder();
    const policy = await trainSmallPolicy(folder.path, 5);
    const store = join(folder.path, "store");
    await baselines({ policy, rewards: letterReward, prompts: texts, samples: 2, sampler, batch: 16, store });
    const offline = { kind: "offline", store, samples: 2, aggregation: { kind: "mean" } } as const;
    const separate = await memoryOf(folder.path, policy, { baseline: offline });
    expect(separate).toHaveLength(13);
    expect(separate[12]!.live - separate[3]!.live).toBeLessThan(secondRuns);
    // Pages that the allocator has not given back, and compiled JavaScript.
    expect(separate[12]!.resident - separate[3]!.resident).toBeLessThan(32 * 2 ** 20);
    const critic = { kind: "shared", warmupIterations: 0, learningRate: 1e-3, coefficient: 0.1 } as const;
    const shared = await memoryOf(folder.path, policy, { critic });
    expect(shared[12]!.live - shared[3]!.live).toBeLessThan(secondRuns);
    expect(shared[12]!.live).toBeLessThan(separate[12]!.live);
    // Beside no critic at all: the head's 16 weights, their two moments, and programs with a few inputs more.
    const none = await memoryOf(folder.path, policy, { critic: { ...critic, kind: "none" } });
    expect(shared[12]!.live - none[12]!.live).toBeLessThan(secondRuns);
  }, 60_000);
});
