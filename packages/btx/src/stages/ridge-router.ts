import {
  compile,
  evaluationBatches,
  type Mixtral,
  matmul,
  type StageContext,
  sum,
  type Tensor,
  type TokenFile,
  tensor,
  transpose,
} from "@trefoil/core";
import { RidgeMoments, type RidgeOptions, ridgeRouter } from "../mix/index.js";
import { StageError } from "./errors.js";

/** Text of a domain and the expert that was trained on it. */
export interface LabelledText {
  file: TokenFile;
  expert: number;
}

export interface RidgeRouterOptions extends RidgeOptions, StageContext {
  /** Tokens read of each text. */
  tokens: number;
  batch: number;
  sequence: number;
}

/**
 * Sets the routers of a mixture by ridge regression, from the first layer to the last: what a layer sees depends on the
 * routers before it. No training. Returns the rows of each mixture layer, [experts, hidden].
 */
export async function setRidgeRouters(
  model: Mixtral,
  texts: readonly LabelledText[],
  options: RidgeRouterOptions,
): Promise<Float32Array[]> {
  const { tokens: count, batch, sequence, progress, signal } = options;
  const { layers: depth, hiddenSize, experts, moeLayers = Array.from({ length: depth }, (_, i) => i) } = model.config;
  const parameters = model.namedParameters();
  const measure = compile((tokens: Tensor, mixture: number) => {
    const { inputs } = model.hidden(tokens).routing[mixture]!;
    return { gram: matmul(transpose(inputs), inputs), sum: sum(inputs, { axes: 0 }) };
  });
  const stage = progress?.stage("ridge router", { total: moeLayers.length, unit: "layers" });
  const rows: Float32Array[] = [];
  for (const [mixture, layer] of moeLayers.entries()) {
    const moments = new RidgeMoments(hiddenSize, experts);
    for (const { file, expert } of texts) {
      if (file.windows(sequence) < batch)
        throw new StageError("BTX_OPTIONS", `${file.path} has too little text for batches of ${batch} × ${sequence}`);
      // Whole batches only: a filled-up one would count padding.
      const batches = Math.max(1, Math.floor(Math.min(count / sequence, file.windows(sequence)) / batch));
      for (const { tokens } of evaluationBatches(file, { batch, sequence, maxWindows: batches * batch })) {
        signal?.throwIfAborted();
        const found = await measure(tensor(tokens, { shape: [batch, sequence] }), mixture);
        moments.addSums(await found.gram.data(), await found.sum.data(), batch * sequence, expert);
      }
    }
    const solved = ridgeRouter(moments, options);
    parameters.get(`model.layers.${layer}.block_sparse_moe.gate`)!.set(solved);
    rows.push(solved);
    stage?.update(mixture + 1);
  }
  stage?.succeed();
  return rows;
}
