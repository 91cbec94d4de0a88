import { readdirSync } from "node:fs";
import { AdamW, compile, gradients, loadModel, type Parameter, type Tensor, tensor } from "@trefoil/core";
import { describe, expect, it } from "vitest";
import { diskTensors } from "./disk-tensors.js";
import { expectClose, fixturePath, readFixture } from "./fixture.js";

const variants = readdirSync(fixturePath("llama"));

/** Weights that make the loss the mean over targets that are not -100, and those targets as -1. */
function lossInputs(labels: Int32Array, [batch, sequence]: readonly [number, number]) {
  // Hugging Face shifts inside the model: position t predicts label t + 1; the last position has none.
  const targets = new Int32Array(batch * sequence).fill(-1);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t + 1 < sequence; t++) {
      const label = labels[b * sequence + t + 1]!;
      targets[b * sequence + t] = label === -100 ? -1 : label;
    }
  }
  const counted = targets.filter((target) => target >= 0).length;
  const shape = [batch, sequence];
  return {
    targets: tensor(targets, { shape }),
    weights: tensor(new Float32Array(batch * sequence).fill(1 / counted), { shape }),
  };
}

describe.each(variants)("%s against transformers", async (variant) => {
  const { tensors, metadata } = await readFixture(fixturePath(`llama/${variant}/expected.safetensors`));
  const ids = tensors.get("input_ids")!;
  const shape = ids.shape as readonly [number, number];

  it("gives the same logits, loss and gradients", async () => {
    const { model } = await loadModel(fixturePath(`llama/${variant}`));
    const { targets, weights } = lossInputs((await tensors.get("labels")!.data()) as Int32Array, shape);
    const parameters = model.parameters();
    const run = compile((tokens: Tensor, wanted: Tensor, counted: Tensor) => {
      const { loss } = model.loss(tokens, wanted, { weights: counted });
      return { logits: model.logits(tokens), loss, grads: gradients(loss, parameters) };
    });
    const { logits, loss, grads } = await run(ids, targets, weights);
    await expectClose("logits", logits, tensors.get("logits")!, 1e-5);
    await expectClose("loss", loss, tensors.get("loss")!, 1e-5);
    const byParameter = new Map<Parameter, Tensor>(parameters.map((parameter, i) => [parameter, grads[i]!]));
    for (const [name, gradient] of await diskTensors(model, (parameter) => byParameter.get(parameter)!)) {
      await expectClose(`gradient of ${name}`, gradient, tensors.get(`grad.${name}`)!, 1e-4);
    }
  });

  it("follows PyTorch's AdamW for 20 steps", async () => {
    const training = JSON.parse(metadata.fixture!).training;
    const { model } = await loadModel(fixturePath(`llama/${variant}`));
    const parameters = model.parameters();
    const { learningRate, beta1, beta2, epsilon, weightDecay, maxGradientNorm: clipNorm } = training;
    const optimizer = new AdamW(parameters, {
      learningRate,
      beta1,
      beta2,
      epsilon,
      weightDecay,
      decayAll: true,
      clipNorm,
    });
    const step = compile((tokens: Tensor, targets: Tensor, weights: Tensor) => {
      const { loss } = model.loss(tokens, targets, { weights });
      optimizer.apply(gradients(loss, parameters));
      return loss;
    });
    const batches = (await tensors.get("batches")!.data()) as Int32Array;
    const labels = (await tensors.get("batch_labels")!.data()) as Int32Array;
    const expected = await tensors.get("training.losses")!.data();
    const size = shape[0] * shape[1];
    const losses: number[] = [];
    for (let i = 0; i < training.steps; i++) {
      const { targets, weights } = lossInputs(labels.subarray(i * size, (i + 1) * size), shape);
      losses.push(
        await (await step(tensor(batches.slice(i * size, (i + 1) * size), { shape }), targets, weights)).item(),
      );
    }
    expect(losses.length).toBe(expected.length);
    losses.forEach((loss, i) => {
      expect(Math.abs(loss / expected[i]! - 1), `step ${i}: ${loss}, expected ${expected[i]}`).toBeLessThan(1e-3);
    });
    for (const [name, weight] of await diskTensors(model, (parameter) => parameter)) {
      const trained = tensors.get(`trained.${name}`);
      // Adam divides by the root of the second moment: where a gradient is nearly 0 its rounding becomes a step.
      if (trained) await expectClose(`trained ${name}`, weight, trained, 1e-3);
    }
  });

  if (variant !== "mixtral") return;
  it("gives the same balancing loss", async () => {
    const { model } = await loadModel(fixturePath(`llama/${variant}`));
    const { targets, weights } = lossInputs((await tensors.get("labels")!.data()) as Int32Array, shape);
    const run = compile((tokens: Tensor, wanted: Tensor, counted: Tensor) => {
      const { loss, balance } = model.loss(tokens, wanted, {
        weights: counted,
        balance: { form: "hf", coefficient: 0.02 },
      });
      return { loss, balance: balance! };
    });
    const { loss, balance } = await run(ids, targets, weights);
    await expectClose("balance", balance, tensors.get("auxiliary_loss")!, 1e-5);
    await expectClose("loss", loss, tensors.get("loss_with_auxiliary")!, 1e-5);
  });
});
