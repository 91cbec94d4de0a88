import {
  AdamW,
  compile,
  exp,
  gatherLast,
  gradients,
  logSoftmax,
  multiply,
  Parameter,
  sum,
  type Tensor,
  tensor,
  valueAndGrad,
} from "@trefoil/core";
import { describe, expect, test } from "vitest";
import { dpoLoss, entropy, klLoss, maskedMean, mean, policyLoss, rewardModelLoss, valueLoss } from "../../src/index.js";
import { expectClose, mulberry32 } from "./numbers.js";

/** Results are f32: seven digits. */
const single = 4e-7;

type Loss = (x: Tensor) => Tensor;

async function withGradient(loss: Loss, at: readonly number[]) {
  const run = compile((x: Tensor) => {
    const value = loss(x);
    return { value, gradient: gradients(value, [x])[0]! };
  });
  const { value, gradient } = await run(tensor(at as number[]));
  return { value: await value.item(), gradient: await gradient.data() };
}

/** Central differences; the step is large because the loss is f32, the function smooth there. */
async function finiteDifferences(loss: Loss, at: readonly number[], step = 2 ** -7): Promise<number[]> {
  const run = compile(loss);
  const valueAt = async (x: number[]) => await (await run(tensor(x))).item();
  const result: number[] = [];
  for (let i = 0; i < at.length; i++) {
    const moved = (sign: number) => at.map((v, j) => (i === j ? v + sign * step : v));
    result.push(((await valueAt(moved(1))) - (await valueAt(moved(-1)))) / (2 * step));
  }
  return result;
}

const ones = tensor([1, 1, 1, 1]);
const old = [-1.2, -0.7, -2, -0.3];
const fresh = [-1, -0.9, -1.6, -0.5];
const advantages = [1, -0.5, 0.8, -1.2];

describe("SFT", () => {
  test("token mean over the batch, prompts masked", async () => {
    const losses = tensor([1.2, 0.7, 2, 0.3, 0.5]);
    const value = await maskedMean(losses, tensor([0, 0, 1, 1, 1])).item();
    expectClose([value, Math.exp(value)], [0.933333333, 2.542972], 1e-6);
    // Per-token, not per-sequence: {[2, .3, .5], [1]}.
    expectClose([await maskedMean(tensor([2, 0.3, 0.5, 1]), ones).item()], [0.95], single);
    expectClose([mean([mean([2, 0.3, 0.5]), 1])], [0.966666667]);
  });
});

describe("policy loss", () => {
  const loss = (x: Tensor, dualClip?: number) =>
    policyLoss(
      { logProbs: x, oldLogProbs: tensor(old), advantages: tensor(advantages), mask: ones },
      { clip: 0.2, ...(dualClip && { dualClip }) },
    );

  test("golden values", async () => {
    const run = compile((x: Tensor) => loss(x));
    const result = await run(tensor(fresh));
    expectClose(await result.ratio.data(), [1.221402758, 0.818730753, 1.491824698, 0.818730753], single);
    expectClose(await result.perToken.data(), [-1.2, 0.409365377, -0.96, 0.982476904], single);
    expectClose([await result.loss.item()], [-0.19203943], single);
    expectClose([await result.clipFraction.item()], [0.5], single);
    const kl = [result.approxKl1, result.approxKl2, result.approxKl3].map((each) => each.item());
    expectClose(await Promise.all(kl), [-0.05, 0.035, 0.03767224], single);
    expectClose([await result.ratioMax.item()], [1.491824698], single);
  });

  test("gradient", async () => {
    const { gradient } = await withGradient((x) => loss(x).loss, fresh);
    expectClose(gradient, [0, 0.102341344, 0, 0.245619226], single);
    // Differences of f32 values over a step of 2^-7.
    expectClose(gradient, await finiteDifferences((x) => loss(x).loss, fresh), 2e-4);
  });

  test("masked tokens count nothing", async () => {
    const masked = compile((x: Tensor) =>
      policyLoss(
        { logProbs: x, oldLogProbs: tensor(old), advantages: tensor(advantages), mask: tensor([1, 1, 0, 0]) },
        { clip: 0.2 },
      ),
    );
    const { loss: value, ratioMax } = await masked(tensor(fresh));
    expectClose([await value.item(), await ratioMax.item()], [(-1.2 + 0.409365377) / 2, 1.221402758], single);
  });

  test("dual clip bounds the loss of a bad action that became likely", async () => {
    const run = compile((x: Tensor) => loss(x, 3).perToken);
    const result = await (await run(tensor([-1.2, -0.7, -2, 1.7]))).data();
    expectClose([result[3]!], [3.6], single);
  });

  test("a log-ratio of any size stays finite", async () => {
    const run = compile((x: Tensor) => loss(x).loss);
    expect(Number.isFinite(await (await run(tensor([500, 0, 0, 0]))).item())).toBe(true);
  });
});

test("value loss", async () => {
  const inputs = { oldValues: tensor([0.5, 0.4, 0.3, 0.2]), returns: tensor([0.9, 0.7, 0.6, 0.55]), mask: ones };
  const v = [0.8, 0.35, 0, 0.25];
  const run = compile((values: Tensor) => valueLoss({ values, ...inputs }, 0.2));
  const result = await run(tensor(v));
  expectClose([await result.loss.item(), await result.clipFraction.item()], [0.0765625, 0.25], single);
  const loss: Loss = (values) => valueLoss({ values, ...inputs }, 0.2).loss;
  const { gradient } = await withGradient(loss, v);
  expectClose(gradient, [0, -0.0875, -0.15, -0.075], single);
  expectClose(gradient, await finiteDifferences(loss, v), 2e-4);
});

test("KL as a loss", async () => {
  const at = [-1.2, -0.7, -2, -0.3];
  for (const estimator of ["k2", "k3"] as const) {
    const loss: Loss = (x) => klLoss(x, tensor(fresh), ones, estimator);
    const { value, gradient } = await withGradient(loss, at);
    expectClose([value * 4], [estimator === "k2" ? 0.14 : 0.150688962], 4 * single);
    expectClose(gradient, await finiteDifferences(loss, at), 2e-4);
  }
});

test("entropy, and log-probabilities at a temperature", async () => {
  const z = [1, 2, 0.5, -1];
  expectClose(await exp(logSoftmax(tensor(z))).data(), [0.224207818, 0.609460038, 0.135988916, 0.030343229], single);
  const { value, gradient } = await withGradient((x) => entropy(x), z);
  expectClose([value], [1.014402776], single);
  expectClose(gradient, [0.107794438, -0.316444375, 0.13337509, 0.075274848], single);
  const cool = tensor(z.map((each) => each / 0.7));
  expectClose(await logSoftmax(cool).data(), [-1.743917784, -0.315346355, -2.458203498, -4.601060641], 2 * single);
  expectClose([await entropy(cool).item()], [0.791547061], 2 * single);
  expectClose(await logSoftmax(tensor(z)).data(), [-1.495181898, -0.495181898, -1.995181898, -3.495181898], single);
});

describe("reward model", () => {
  const chosen = tensor([1.2, 0.3, -0.5]);
  const rejected = [0.4, 0.9, -1.5];
  test("Bradley–Terry, margin, centring, label noise", async () => {
    const plain = rewardModelLoss(chosen, tensor(rejected));
    expectClose(await plain.perPair.data(), [0.371100666, 1.03748795, 0.313261688], single);
    expectClose([await plain.loss.item()], [0.573950101], single);
    const margin = rewardModelLoss(chosen, tensor(rejected), { margin: tensor([0.5, 0, 0.25]) });
    expectClose(await margin.perPair.data(), [0.554355244, 1.03748795, 0.386871006], single);
    expectClose([await margin.loss.item()], [0.6595714], single);
    expectClose([await rewardModelLoss(chosen, tensor(rejected), { centre: 0.01 }).loss.item()], [0.600616768], single);
    expectClose([0.01 * mean([1.2 + 0.4, 0.3 + 0.9, -0.5 - 1.5].map((sum) => sum ** 2))], [0.026666667]);
    const noise = async (kind: "conservative" | "robust") =>
      await rewardModelLoss(chosen, tensor(rejected), { labelNoise: { kind, rate: 0.1 } }).loss.item();
    expectClose([await noise("conservative"), await noise("robust")], [0.613950101, 0.523950101], single);
  });

  test("gradients", async () => {
    const ofChosen = await withGradient((x) => rewardModelLoss(x, tensor(rejected)).loss, [1.2, 0.3, -0.5]);
    expectClose(ofChosen.gradient, [-0.10334184, -0.215218769, -0.08964714], single);
    const centred = await withGradient(
      (x) => rewardModelLoss(x, tensor(rejected), { centre: 0.01 }).loss,
      [1.2, 0.3, -0.5],
    );
    expectClose(centred.gradient, [-0.092675173, -0.207218769, -0.102980474], single);
    const ofRejected = await withGradient((x) => rewardModelLoss(chosen, x, { centre: 0.01 }).loss, rejected);
    expectClose(ofRejected.gradient, [0.114008506, 0.223218769, 0.076313807], single);
  });
});

test("DPO", async () => {
  const reference = { referenceChosen: tensor([-11]), referenceRejected: tensor([-13]) };
  const loss = (x: Tensor, form?: Parameters<typeof dpoLoss>[2]) =>
    dpoLoss({ chosen: x, rejected: tensor([-14]), ...reference }, 0.1, form);
  const { loss: value, chosenReward, rejectedReward } = loss(tensor([-10]));
  expectClose(
    [await value.item(), await chosenReward.item(), await rejectedReward.item()],
    [0.598138869, 0.1, -0.1],
    single,
  );
  const { gradient } = await withGradient((x) => loss(x).loss, [-10]);
  expectClose(gradient, [-0.0450166], single);
  const forms = [{ kind: "conservative", rate: 0.1 }, { kind: "robust", rate: 0.1 }, { kind: "ipo" }] as const;
  const values = await Promise.all(forms.map((form) => loss(tensor([-10]), form).loss.item()));
  expectClose(values.slice(0, 2), [0.618138869, 0.573138869], single);
  expectClose(values.slice(2), [9], 4e-6);
});

test("PPO's loss through a softmax agrees with differences", async () => {
  const uniform = mulberry32(3);
  const logits = Array.from({ length: 4 * 5 }, () => 2 * uniform() - 1);
  const index = tensor(Int32Array.of(0, 3, 2, 4), { shape: [4, 1] });
  const loss: Loss = (x) => {
    const z = x.reshape([4, 5]);
    const logProbs = gatherLast(logSoftmax(z), index).reshape([4]);
    const inputs = {
      logProbs,
      oldLogProbs: tensor([-1.5, -1.6, -1.7, -1.4]),
      advantages: tensor(advantages),
      mask: ones,
    };
    return policyLoss(inputs, { clip: 0.7 }).loss.add(multiply(maskedMean(entropy(z), ones), -0.1));
  };
  const { gradient } = await withGradient(loss, logits);
  expectClose(gradient, await finiteDifferences(loss, logits), 3e-4);
});

test("Adam in PyTorch's convention", async () => {
  const weights = new Parameter([2], { data: Float32Array.of(1, 1) });
  const rates = { learningRate: 1e-3, beta1: 0.9, beta2: 0.999, epsilon: 1e-5, clipNorm: Number.POSITIVE_INFINITY };
  const optimizer = new AdamW([weights], { ...rates, weightDecay: 0 });
  const step = compile((gradient: Tensor) => {
    const { value, grads } = valueAndGrad(() => sum(multiply(weights, gradient)), [weights]);
    optimizer.apply(grads);
    return value;
  });
  await step(tensor([0.5, -1e-4]));
  expectClose(await weights.data(), [0.99900002, 1.000909091], 2e-7);
  // TensorFlow adds ε to √v before the bias is corrected: another step, by far.
  const tensorFlow = [0.5, -1e-4].map((g) => 1 - (1e-3 * Math.sqrt(0.001) * g) / (Math.sqrt(0.001 * g * g) + 1e-5));
  expectClose(tensorFlow, [0.999000632, 1.000240253]);
  expect(Math.abs((await weights.data())[1]! - tensorFlow[1]!)).toBeGreaterThan(6e-4);
  await step(tensor([-0.2, 2e-4]));
  expectClose(await weights.data(), [0.998654423, 1.000564761], 2e-7);
  const decayed = new Parameter([2], { data: Float32Array.of(1, 1) });
  const adamW = new AdamW([decayed], { ...rates, weightDecay: 0.01, decayAll: true });
  const decay = compile((gradient: Tensor) => {
    const { value, grads } = valueAndGrad(() => sum(multiply(decayed, gradient)), [decayed]);
    adamW.apply(grads);
    return value;
  });
  await decay(tensor([0.5, -1e-4]));
  expectClose(await decayed.data(), [0.99899002, 1.000899091], 2e-7);
});

test("the gradient is scaled to the norm as in PyTorch", async () => {
  const weights = new Parameter([2], { data: Float32Array.of(1, 1) });
  // Without a mean over steps the first moment is the gradient after scaling.
  const rates = { learningRate: 1e-3, beta1: 0, beta2: 0.999, epsilon: 1e-5, clipNorm: 1 };
  const optimizer = new AdamW([weights], { ...rates, weightDecay: 0 });
  const step = compile((gradient: Tensor) => {
    const { grads } = valueAndGrad(() => sum(multiply(weights, gradient)), [weights]);
    return optimizer.apply(grads).gradientNorm;
  });
  expectClose(await (await step(tensor([3, 4]))).data(), [5], 1e-6);
  // One rounding of f32; 0.6 and 0.8 are more than twice as far.
  expectClose(await optimizer.firstMoments[0]!.data(), [0.59999988, 0.79999984], 6e-8);
});
