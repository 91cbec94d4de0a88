import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  functionReward,
  gold,
  type PpoSettings,
  plainPpo,
  ppo,
  promptTexts,
  RewardSum,
  sft,
  taskDemonstrations,
  taskPrompts,
  taskResponseTokens,
  taskTokenizer,
} from "@trefoil/contrastive-rlhf";
import type { Case, Opened, Timing } from "../measure/side.js";
import { type ModelSize, modelConfig } from "./models.js";

interface PpoTask {
  size: ModelSize;
  rollouts: number;
  minibatch: number;
  /** Of supervised training before, from which both sides start. */
  sftSteps: number;
  /** Learning rates fall to 0 over these; more than are ever measured. */
  iterations: number;
}

const maxPositions = 16;
const promptCount = 512;
const rate = 1e-4;

const settingsOf = ({ rollouts, minibatch, iterations }: PpoTask): PpoSettings => ({
  ...plainPpo,
  iterations,
  promptsPerIteration: rollouts,
  minibatch,
  maxNewTokens: taskResponseTokens,
  learningRate: rate,
  seed: 0,
  kl: { where: "reward", coefficient: 0.05 },
  critic: { kind: "separate", warmupIterations: 0, learningRate: 3 * rate, coefficient: 1 },
  baseline: { kind: "none" },
  penalties: {},
  alarms: { enabled: false, grace: 0 },
  checkpointEvery: iterations,
  keepCheckpoints: 1,
});

/** Lets a stage that runs by itself take one turn at a time: it halts where it calls `pass`. */
class Gate {
  #arrived: (() => void) | undefined;
  #open: (() => void) | undefined;
  #ended = false;

  /** Called by the stage: halts it until the next `turn`. */
  async pass(): Promise<void> {
    this.#arrived?.();
    if (!this.#ended) await new Promise<void>((resolve) => (this.#open = resolve));
  }

  /** Lets the stage go on, and returns when it halts again, or fails. */
  async turn(stage: Promise<unknown>): Promise<void> {
    const arrival = new Promise<void>((resolve) => (this.#arrived = resolve));
    this.#open?.();
    this.#open = undefined;
    const ended = stage.then(() => {
      throw new Error("the stage ended during the measurement");
    });
    await Promise.race([arrival, ended]);
  }

  /** The stage does not halt any more. */
  end(): void {
    this.#ended = true;
    this.#open?.();
  }
}

/** Whole iterations of `contrastive-rlhf ppo`: rollouts, their scores, four epochs of updates of policy and critic. */
function proximalPolicy(task: PpoTask): Case {
  const { size, rollouts, minibatch, sftSteps, iterations } = task;
  const settings = settingsOf(task);
  const prompts = taskPrompts(promptCount, 0, 0).training;
  const tokenizer = taskTokenizer();
  const idsOf = (prompt: string): number[] => [tokenizer.bosTokenId!, ...tokenizer.encode(prompt)];
  const torch = {
    kernel: "ppo",
    // Filled in once the model that both start from is written.
    folder: "",
    prompts: prompts.map(idsOf),
    letters: tokenizer.encode("=")[0]!,
    end: tokenizer.eosTokenId!,
    padding: tokenizer.bosTokenId!,
    settings: {
      iterations,
      rollouts,
      minibatch,
      epochs: settings.epochs,
      new_tokens: settings.maxNewTokens,
      gamma: settings.gamma,
      lambda: settings.lambda,
      clip: settings.clip,
      kl: 0.05,
      policy_rate: rate,
      value_rate: 3 * rate,
      clip_norm: settings.clipNorm,
    },
  };
  return {
    family: "ppo iteration",
    name: `${size} ${rollouts} rollouts`,
    unit: "tokens/s",
    // Prompts and the room for their responses.
    amount: rollouts * (torch.prompts[0]!.length + settings.maxNewTokens),
    async open(): Promise<Opened> {
      const folder = await mkdtemp(join(tmpdir(), "trefoil-bench-"));
      const policy = join(folder, "sft");
      const { vocabSize: _, headDim: __, ...config } = modelConfig(size, 0, maxPositions);
      await sft({
        from: { tokenizer, ...config },
        demonstrations: taskDemonstrations([...prompts, ...prompts], 0.4, 0),
        trainOnPrompts: false,
        settings: {
          steps: sftSteps,
          batch: 64,
          maxLength: maxPositions,
          learningRate: 1e-3,
          warmupSteps: 10,
          weightDecay: 0,
          clipNorm: 1,
          seed: 0,
          checkpointEvery: sftSteps,
          keepCheckpoints: 1,
        },
        output: policy,
        run: join(folder, "sft-run"),
      });
      torch.folder = policy;
      const gate = new Gate();
      const rewardOfIterations: number[] = [];
      const reward = functionReward("gold", "gold", async (samples) => {
        const scores = samples.map(({ promptText, responseText, ended }) => gold(promptText, responseText, ended));
        rewardOfIterations.push(scores.reduce((sum, each) => sum + each, 0) / scores.length);
        await gate.pass();
        return scores;
      });
      const rewards = new RewardSum([{ reward, weight: 1 }]);
      const controller = new AbortController();
      const stage = ppo({
        policy,
        rewards,
        prompts: promptTexts(prompts),
        settings,
        output: join(folder, "ppo"),
        run: join(folder, "ppo-run"),
        signal: controller.signal,
      });
      // Failures are reported by the turn that meets them.
      stage.catch(() => {});
      return {
        side: {
          name: "trefoil",
          async run(repetitions): Promise<Timing> {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) await gate.turn(stage);
            return { seconds: (performance.now() - begun) / 1000 / repetitions, scores: [...rewardOfIterations] };
          },
        },
        async close() {
          controller.abort();
          gate.end();
          await stage.catch(() => {});
          await rm(folder, { recursive: true, force: true });
        },
      };
    },
    torch,
  };
}

export const ppoCases = (quick: boolean): Case[] =>
  quick
    ? [proximalPolicy({ size: "tiny", rollouts: 8, minibatch: 4, sftSteps: 2, iterations: 100_000 })]
    : [
        proximalPolicy({ size: "1m", rollouts: 128, minibatch: 64, sftSteps: 60, iterations: 200 }),
        proximalPolicy({ size: "10m", rollouts: 32, minibatch: 16, sftSteps: 10, iterations: 200 }),
      ];
