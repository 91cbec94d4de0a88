import { dtypeBytes, generationConfigJson, ModelFolderWriter, mixtralConfigJson } from "@trefoil/core";
import { ChunkBuffers, chunksOf } from "./chunks.js";
import type { Source } from "./compatibility.js";
import { configDtypes, type MixPlan, type MixtureOptions } from "./plan.js";
import { routerRows } from "./router.js";
import { encode, TensorSink } from "./sink.js";
import { type Stream, writeAverage, writeExperts } from "./streaming.js";
import { expertTargets, projections, sourceName } from "./tensors.js";

/** ‖θ_i − θ̄‖ / ‖θ̄‖ of each checkpoint, by the name of its tensor. */
export type DivergenceReport = Record<string, readonly number[]>;

export interface MixResult extends MixPlan {
  /** Of the averaged tensors: large values mean that the average is far from every branch. */
  readonly averaged: DivergenceReport;
  /** Of the feed-forward tensors, which become experts: 0 means that the experts are the same. */
  readonly experts: DivergenceReport;
}

export interface WriteOptions {
  readonly options: MixtureOptions;
  /** Noise on the experts, as a share of the root mean square of each matrix in the checkpoint. */
  readonly noise?: { readonly share: number; readonly seed: number };
  /** What `btx_mix.json` says beside the divergence. */
  readonly description: object;
}

/** Two tensors are worked on at a time, so that one reads while the other computes. */
const workers = 2;

/**
 * Writes a planned mixture: streamed, read back, and renamed into place.
 * @throws MixError when a weight is not finite or the result does not read back
 */
export async function writeMixture(
  sources: readonly Source[],
  plan: MixPlan,
  { options, noise, description }: WriteOptions,
): Promise<MixResult> {
  const { shardBytes, overwrite } = options;
  const declarations = plan.tensors.map(({ name, shape, dtype }) => ({ name, shape, dtype }));
  const names = plan.arrangement.experts.map(({ name }) => name).join(", ");
  const writer = await ModelFolderWriter.create(plan.output, declarations, {
    ...(shardBytes === undefined ? {} : { shardBytes }),
    ...(overwrite === undefined ? {} : { overwrite }),
    metadata: { format: "pt", experts: names },
  });
  try {
    const sink = new TensorSink(writer, (done) => options.onProgress?.(done, plan.bytes));
    const divergence = await writeTensors(sources, plan, { options, noise, sink });
    await writer.writeFile("config.json", mixtralConfigJson(plan.config, configDtypes[plan.tensors[0]!.dtype]));
    await writer.writeFile("generation_config.json", generationConfigJson(plan.config));
    await writer.copyFiles(sources[0]!.path);
    await writer.writeFile("btx_mix.json", { ...description, divergence });
    await writer.finish({ verify: (folder) => sink.verify(folder) });
    return { ...plan, ...divergence };
  } catch (error) {
    await writer.abort();
    throw error;
  }
}

async function writeTensors(
  sources: readonly Source[],
  { tensors, weights, config, arrangement, moeLayers, layout }: MixPlan,
  { options, noise, sink }: { options: MixtureOptions; noise: WriteOptions["noise"]; sink: TensorSink },
): Promise<{ averaged: DivergenceReport; experts: DivergenceReport }> {
  const averaged = new Map<string, readonly number[]>();
  const experts = new Map<string, readonly number[]>();
  const sizes = { ...config, experts: arrangement.experts.length };
  const dtypeOf = new Map(tensors.map(({ name, dtype }) => [name, dtype]));
  const rows = routerRows(options.router, sizes.experts, config.hiddenSize);
  const jobs: ((stream: Stream) => Promise<void>)[] = [];
  for (const { name, from, dtype } of tensors) {
    if (from.kind === "average") {
      averaged.set(from.source, []);
      jobs.push(async (stream) => {
        averaged.set(from.source, await writeAverage(stream, from.source, { name, dtype }));
      });
    } else if (from.kind === "router") {
      // Drawn now, in the order of layers, whatever order the jobs end in.
      const values = rows(moeLayers.indexOf(from.layer));
      const target = { name, dtype };
      jobs.push(() => sink.write([{ target, first: 0, bytes: encode(target, values) }]));
    }
  }
  for (const layer of moeLayers) {
    for (const [p, projection] of projections.entries()) {
      const source = sourceName(layer, projection);
      experts.set(source, []);
      jobs.push(async (stream) => {
        const targets = expertTargets(sizes, layer, projection, layout);
        const dtype = dtypeOf.get(targets[0]!.name)!;
        const standardDeviation = noise ? noise.share * (await rootMeanSquare(stream, source)) : 0;
        const added = noise && { noise: { standardDeviation, seed: noise.seed + 3 * layer + p } };
        const job = { arrangement, projection, targets, dtype, ...added };
        experts.set(source, await writeExperts(stream, source, job));
      });
    }
  }
  const queue = jobs.values();
  const work = async () => {
    const stream = { sources, weights, sink, buffers: new ChunkBuffers() };
    for (const job of queue) {
      options.signal?.throwIfAborted();
      await job(stream);
    }
  };
  const outcomes = await Promise.allSettled(Array.from({ length: workers }, work));
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  return { averaged: Object.fromEntries(averaged), experts: Object.fromEntries(experts) };
}

/** Of the first source. */
async function rootMeanSquare({ sources: [source], buffers }: Stream, name: string): Promise<number> {
  let [sum, count] = [0, 0];
  for await (const { stored, sums } of chunksOf([source!], name, { weights: [1], buffers })) {
    sum += sums.squaredNorm;
    count += stored[0]!.bytes.byteLength / dtypeBytes[stored[0]!.dtype];
  }
  return Math.sqrt(sum / count);
}
