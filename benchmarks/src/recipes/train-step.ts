import { AdamW, compile, gradients, type Tensor, tensor } from "@trefoil/core";
import type { Case } from "../measure/side.js";
import { buildModel, disposeModel, type ModelSize, modelConfig } from "./models.js";

interface TrainStep {
  size: ModelSize;
  /** 0: dense. */
  experts: number;
  batch: number;
  sequence: number;
  threads?: number;
}

/** Whole training steps: forward, backward, clipping, AdamW; the loss is read after every one. */
function trainStep({ size, experts, batch, sequence, threads }: TrainStep): Case {
  return {
    family: experts > 0 ? "training step, moe" : "training step, dense",
    name: `${size}${experts > 0 ? ` ${experts} experts top-2` : ""} ${batch}x${sequence}${threads ? ` on ${threads} thread` : ""}`,
    unit: "tokens/s",
    amount: batch * sequence,
    ...(threads ? { threads } : {}),
    async open() {
      const model = buildModel(size, experts, sequence);
      const parameters = model.parameters();
      const optimizer = new AdamW(parameters, { learningRate: 1e-3 });
      const step = compile((tokens: Tensor, targets: Tensor) => {
        const { loss } = model.loss(tokens, targets);
        optimizer.apply(gradients(loss, parameters));
        return loss;
      });
      // The last row's last token has no successor.
      const ids = Int32Array.from({ length: batch * sequence + 1 }, (_, i) => (i * 7) % 251);
      const [tokens, targets] = [ids.slice(0, -1), ids.slice(1)].map((data) =>
        tensor(data, { shape: [batch, sequence] }),
      );
      return {
        side: {
          name: "trefoil",
          async run(repetitions) {
            const begun = performance.now();
            for (let i = 0; i < repetitions; i++) await (await step(tokens!, targets!)).item();
            return { seconds: (performance.now() - begun) / 1000 / repetitions };
          },
        },
        details: { parameters: model.parameterCount(), arenaBytes: step.memory(tokens!, targets!).arenaBytes },
        close() {
          disposeModel(model);
          for (const state of optimizer.namedState().values()) state.dispose();
        },
      };
    },
    torch: { kernel: "train_step", config: modelConfig(size, experts, sequence), batch, sequence },
  };
}

/** Dense and routed Llamas; the dense 10M also on one thread, for how it scales. */
export function trainStepCases(quick: boolean): Case[] {
  if (quick) return [0, 4].map((experts) => trainStep({ size: "tiny", experts, batch: 2, sequence: 16 }));
  const sizes = [
    { size: "1m", batch: 8, sequence: 256 },
    { size: "10m", batch: 4, sequence: 256 },
    { size: "60m", batch: 2, sequence: 256 },
  ] as const;
  return [
    ...sizes.map((size) => trainStep({ ...size, experts: 0 })),
    trainStep({ ...sizes[1], experts: 0, threads: 1 }),
    ...sizes.map((size) => trainStep({ ...size, experts: 4 })),
  ];
}
