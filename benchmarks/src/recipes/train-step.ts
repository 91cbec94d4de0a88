import { AdamW, compile, Device, defaultDevice, gradients, setDefaultDevice, type Tensor, tensor } from "@trefoil/core";
import type { Case, Opened } from "../measure/side.js";
import { buildModel, denseParameters, disposeModel, forwardOperations, type ModelSize, modelConfig } from "./models.js";

interface TrainStep {
  size: ModelSize;
  /** 0: dense. */
  experts: number;
  batch: number;
  sequence: number;
}

/** A model, its optimiser and its step on the default device, traced and bound to it. */
async function openStep(name: string, { size, experts, batch, sequence }: TrainStep): Promise<Opened> {
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
  const [tokens, targets] = [ids.slice(0, -1), ids.slice(1)].map((data) => tensor(data, { shape: [batch, sequence] }));
  return {
    side: {
      name,
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
}

/** Whole training steps: forward, backward, clipping, AdamW; the loss is read after every one. */
function trainStep(task: TrainStep): Case {
  const { size, experts, batch, sequence } = task;
  return {
    family: experts > 0 ? "training step, moe" : "training step, dense",
    name: `${size}${experts > 0 ? ` ${experts} experts top-2` : ""} ${batch}x${sequence}`,
    unit: "tokens/s",
    amount: batch * sequence,
    bound: "compute",
    // Forward once, backward twice as much; two experts of a mixture see every token.
    boundAmount:
      3 *
      batch *
      sequence *
      (forwardOperations(size, sequence) + (experts > 0 ? 2 * denseParameters(size).feedForward : 0)),
    open: () => openStep("trefoil", task),
    torch: { kernel: "train_step", config: modelConfig(size, experts, sequence), batch, sequence },
  };
}

/** The same step on one thread, in turns with all of them: the ratio is what the others bring. */
function scaling(task: TrainStep): Case {
  const { size, batch, sequence } = task;
  return {
    family: "scaling of a training step",
    name: `${size} ${batch}x${sequence}`,
    unit: "tokens/s",
    amount: batch * sequence,
    async open() {
      const all = await openStep("trefoil", task);
      const usual = defaultDevice();
      setDefaultDevice(new Device("cpu:0", { threads: 1 }));
      try {
        const alone = await openStep("one thread", task);
        // Once on this device: the step stays bound to it.
        await alone.side.run(1);
        const close = async () => {
          await all.close?.();
          await alone.close?.();
        };
        return { ...all, references: [alone.side], close };
      } finally {
        setDefaultDevice(usual);
      }
    },
  };
}

/** Dense and routed Llamas, and how the dense 10M scales with threads. */
export function trainStepCases(quick: boolean): Case[] {
  if (quick) {
    const small = { size: "tiny", batch: 2, sequence: 16 } as const;
    return [...[0, 4].map((experts) => trainStep({ ...small, experts })), scaling({ ...small, experts: 0 })];
  }
  const sizes = [
    { size: "1m", batch: 8, sequence: 256 },
    { size: "10m", batch: 4, sequence: 256 },
    { size: "60m", batch: 2, sequence: 256 },
  ] as const;
  return [
    ...sizes.map((size) => trainStep({ ...size, experts: 0 })),
    scaling({ ...sizes[1], experts: 0 }),
    ...sizes.map((size) => trainStep({ ...size, experts: 4 })),
  ];
}
