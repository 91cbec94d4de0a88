// Low-rank adapters (LoRA, arXiv 2106.09685) on the attention of a Llama: train them, save them, merge them into the weights.
import {
  AdamW,
  add,
  type CausalLM,
  compile,
  gradients,
  InitialValues,
  Linear,
  linear,
  loadModel,
  loadSafetensors,
  matmul,
  multiply,
  Parameter,
  restoreParameters,
  saveModel,
  saveSafetensors,
  storedTensors,
  type Tensor,
} from "@trefoil/core";

/** `x Wᵀ + scale (x Aᵀ) Bᵀ`. B is zero at first, so that the model starts as it was. */
class LoraLinear extends Linear {
  readonly loraA: Parameter;
  readonly loraB: Parameter;
  readonly scale: number;

  constructor(base: Linear, rank: number, scale: number, initial: InitialValues) {
    const [outputs, inputs] = base.weight.shape as [number, number];
    super(inputs, outputs, { weight: base.weight, bias: base.bias ?? false });
    this.loraA = new Parameter([rank, inputs], { data: initial.uniform([rank, inputs], 1 / Math.sqrt(inputs)) });
    this.loraB = new Parameter([outputs, rank]);
    this.scale = scale;
  }

  override forward(x: Tensor): Tensor {
    return add(super.forward(x), multiply(linear(linear(x, this.loraA), this.loraB), this.scale));
  }

  /** A plain layer whose weight has the adapter in it. */
  merge(): Linear {
    const [outputs, inputs] = this.weight.shape as [number, number];
    this.weight.assign(add(this.weight, multiply(matmul(this.loraB, this.loraA), this.scale)));
    return new Linear(inputs, outputs, { weight: this.weight, bias: this.bias ?? false });
  }
}

const adapted = ["qProj", "kProj", "vProj", "oProj"] as const;

/** Freezes a model and puts adapters into its attention. Returns their parameters, by name. */
export function addAdapters(model: CausalLM, { rank = 4, alpha = 8, seed = 0 } = {}): Map<string, Parameter> {
  for (const parameter of model.parameters()) parameter.trainable = false;
  const initial = new InitialValues(seed);
  for (const { selfAttn } of model.model.layers)
    for (const name of adapted) selfAttn[name] = new LoraLinear(selfAttn[name], rank, alpha / rank, initial);
  return new Map([...model.namedParameters()].filter(([, { trainable }]) => trainable));
}

function mergeAdapters(model: CausalLM): void {
  for (const { selfAttn } of model.model.layers) {
    for (const name of adapted) {
      const layer = selfAttn[name];
      if (layer instanceof LoraLinear) selfAttn[name] = layer.merge();
    }
  }
}

/**
 * Trains adapters for the model in `base` and saves them as one safetensors file.
 * @param batches i32 [rows, length + 1]: tokens, each row one more than is predicted
 */
export async function finetune(base: string, adapters: string, batches: readonly Tensor[]): Promise<number[]> {
  const { model } = await loadModel(base);
  const named = addAdapters(model);
  const parameters = [...named.values()];
  const optimizer = new AdamW(parameters, { learningRate: 1e-2, weightDecay: 0 });
  const step = compile((tokens: Tensor) => {
    const { loss } = model.loss(tokens.slice(1, 0, -1), tokens.slice(1, 1));
    optimizer.apply(gradients(loss, parameters));
    return loss;
  });
  const losses: number[] = [];
  for (const batch of batches) losses.push(await (await step(batch)).item());
  await saveSafetensors(adapters, await storedTensors(named));
  return losses;
}

/** The model in `base` with saved adapters. */
export async function loadAdapted(base: string, adapters: string) {
  const { model, config } = await loadModel(base);
  restoreParameters(addAdapters(model), await loadSafetensors(adapters), adapters);
  return { model, config };
}

/** Writes a Hugging Face folder in which the adapters are part of the weights: for transformers, for GGUF, for serving. */
export async function exportMerged(base: string, adapters: string, output: string): Promise<void> {
  const { model, config } = await loadAdapted(base, adapters);
  mergeAdapters(model);
  await saveModel(model, output, { config });
}
