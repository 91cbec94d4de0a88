import {
  dpoLoss,
  entropy,
  klLoss,
  maskedMean,
  policyLoss,
  rewardModelLoss,
  shapedRewards,
  valueLoss,
} from "@trefoil/contrastive-rlhf";
import { add, compile, gatherLast, gradients, logSoftmax, multiply, reshape, type Tensor } from "@trefoil/core";
import { expect, it } from "vitest";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

const { tensors, metadata } = await readFixture(fixturePath("rlhf.safetensors"));
const { clip, dualClip, valueClip, temperature, rate, beta, centre, ...coefficients } = JSON.parse(metadata.settings!);
const fixture = (name: string): Tensor => {
  const found = tensors.get(name);
  if (!found) throw new Error(`no ${name} in the fixture`);
  return found;
};

const actions = reshape(fixture("actions"), [-1, 1]);
const mask = fixture("mask");
const scaled = (logits: Tensor) => multiply(logits, 1 / temperature);
const logProbs = (logits: Tensor) => reshape(gatherLast(logSoftmax(scaled(logits)), actions), [-1]);

const ofPolicy = (logits: Tensor, bound?: number) =>
  policyLoss(
    { logProbs: logProbs(logits), oldLogProbs: fixture("old"), advantages: fixture("advantages"), mask },
    { clip, ...(bound !== undefined && { dualClip: bound }) },
  ).loss;
const ofValues = (values: Tensor, bound?: number) =>
  valueLoss({ values, oldValues: fixture("old_values"), returns: fixture("returns"), mask }, bound).loss;
const ofKl = (logits: Tensor, estimator: "k2" | "k3") =>
  klLoss(logProbs(logits), fixture("reference"), mask, estimator);
const ofEntropy = (logits: Tensor) => maskedMean(entropy(scaled(logits)), mask);
const ofDpo = (chosen: Tensor, rejected: Tensor, form?: Parameters<typeof dpoLoss>[2]) => {
  const references = {
    referenceChosen: fixture("reference_chosen"),
    referenceRejected: fixture("reference_rejected"),
  };
  return dpoLoss({ chosen, rejected, ...references }, beta, form).loss;
};

type Loss = (...leaves: Tensor[]) => Tensor;
const pairs = ["chosen", "rejected"];
const losses: Record<string, [leaves: string[], Loss]> = {
  policy: [["logits"], (z) => ofPolicy(z!)],
  "policy-dual-clip": [["logits"], (z) => ofPolicy(z!, dualClip)],
  value: [["values"], (v) => ofValues(v!)],
  "value-clip": [["values"], (v) => ofValues(v!, valueClip)],
  "kl-k2": [["logits"], (z) => ofKl(z!, "k2")],
  "kl-k3": [["logits"], (z) => ofKl(z!, "k3")],
  entropy: [["logits"], (z) => ofEntropy(z!)],
  ppo: [
    ["logits", "values"],
    (z, v) => {
      const kl = multiply(ofKl(z!, "k3"), coefficients.klCoefficient);
      const value = multiply(ofValues(v!, valueClip), coefficients.valueCoefficient);
      const bonus = multiply(ofEntropy(z!), -coefficients.entropyCoefficient);
      return add(add(ofPolicy(z!), value), add(kl, bonus));
    },
  ],
  reward: [pairs, (a, b) => rewardModelLoss(a!, b!).loss],
  "reward-margin": [pairs, (a, b) => rewardModelLoss(a!, b!, { margin: fixture("margin") }).loss],
  "reward-centre": [pairs, (a, b) => rewardModelLoss(a!, b!, { centre }).loss],
  "reward-conservative": [
    pairs,
    (a, b) => rewardModelLoss(a!, b!, { labelNoise: { kind: "conservative", rate } }).loss,
  ],
  "reward-robust": [pairs, (a, b) => rewardModelLoss(a!, b!, { labelNoise: { kind: "robust", rate } }).loss],
  dpo: [pairs, (a, b) => ofDpo(a!, b!)],
  "dpo-conservative": [pairs, (a, b) => ofDpo(a!, b!, { kind: "conservative", rate })],
  "dpo-robust": [pairs, (a, b) => ofDpo(a!, b!, { kind: "robust", rate })],
  "dpo-ipo": [pairs, (a, b) => ofDpo(a!, b!, { kind: "ipo" })],
};

/** f32 sums of 24 tokens. */
const tolerance = 2e-6;

it.each(Object.entries(losses))("%s: value and gradients of PyTorch", async (name, [leaves, loss]) => {
  const run = compile((...inputs: Tensor[]) => {
    const value = loss(...inputs);
    return { value, grads: gradients(value, inputs) };
  });
  const { value, grads } = await run(...leaves.map(fixture));
  await expectClose(name, value, fixture(`${name}/loss`), tolerance);
  for (const [i, leaf] of leaves.entries())
    await expectClose(`${name}, d ${leaf}`, grads[i]!, fixture(`${name}/${leaf}.grad`), tolerance);
});

it("every loss of the fixture is compared", () => {
  const made = [...tensors.keys()].flatMap((name) => (name.endsWith("/loss") ? [name.slice(0, -"/loss".length)] : []));
  expect(made.sort()).toEqual(Object.keys(losses).sort());
});

it("k1 in the reward of each token", async () => {
  const now = (await logProbs(fixture("logits")).data()) as Float32Array;
  const reference = (await fixture("reference").data()) as Float32Array;
  const rewards = shapedRewards(now, reference, 0, coefficients.klCoefficient);
  const expected = (await fixture("k1-rewards").data()) as Float32Array;
  rewards.forEach((reward, t) => {
    expect(reward).toBeCloseTo(expected[t]!, 6);
  });
});
