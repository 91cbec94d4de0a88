import { AdamW, compile, Device, defaultDevice, gradients, setDefaultDevice, type Tensor, tensor } from "@trefoil/core";
import type { Case, Opened } from "../measure/side.js";
import { buildModel, forwardFlops, type ModelSize, modelConfig } from "./models.js";

interface TrainStep {
  size: ModelSize;
  /** 0: dense. */
  experts: number;
  batch: number;
  sequence: number;
  /** Default 1e-3. */
  learningRate?: number;
  /** The same token everywhere: every row of a layer is the same, and goes to the same two experts. */
  oneToken?: boolean;
  /** Of products; PyTorch's side then runs under autocast. Default "f32". */
  precision?: "f32" | "bf16-products";
}

/** A model, its optimiser and its step on the default device, traced and bound to it. */
async function openStep(name: string, task: TrainStep): Promise<Opened> {
  const { size, experts, batch, sequence, learningRate = 1e-3, oneToken = false } = task;
  const model = buildModel(size, experts, sequence);
  const parameters = model.parameters();
  const optimizer = new AdamW(parameters, { learningRate });
  const step = compile((tokens: Tensor, targets: Tensor) => {
    const { loss } = model.loss(tokens, targets);
    optimizer.apply(gradients(loss, parameters));
    return loss;
  });
  // The last row's last token has no successor.
  const ids = Int32Array.from({ length: batch * sequence + 1 }, (_, i) => (oneToken ? 7 : (i * 7) % 251));
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
      model.dispose();
      for (const state of optimizer.namedState().values()) state.dispose();
    },
  };
}

/** The step on another device than the default one. */
async function openStepOn(device: Device, name: string, task: TrainStep): Promise<Opened> {
  const usual = defaultDevice();
  setDefaultDevice(device);
  try {
    const opened = await openStep(name, task);
    // Once on this device: the step stays bound to it.
    await opened.side.run(1);
    return opened;
  } finally {
    setDefaultDevice(usual);
  }
}

/** Whole training steps: forward, backward, clipping, AdamW; the loss is read after every one. */
function trainStep(task: TrainStep): Case {
  const { size, experts, batch, sequence, precision = "f32" } = task;
  const bf16 = precision !== "f32";
  return {
    family: `training step, ${experts > 0 ? "moe" : "dense"}${bf16 ? ", bf16 products" : ""}`,
    name: `${size}${experts > 0 ? ` ${experts} experts top-2` : ""} ${batch}x${sequence}`,
    unit: "tokens/s",
    amount: batch * sequence,
    bound: "compute",
    // Forward once, backward twice as much.
    boundAmount: 3 * batch * sequence * forwardFlops(size, experts, sequence),
    async open() {
      if (!bf16) return await openStep("trefoil", task);
      const opened = await openStepOn(
        new Device("cpu:0", { precision, threads: defaultDevice().info.threads }),
        "trefoil",
        task,
      );
      const f32 = await openStep("f32", task);
      const close = async () => {
        await opened.close?.();
        await f32.close?.();
      };
      return { ...opened, references: [f32.side], close };
    },
    torch: { kernel: "train_step", config: modelConfig(size, experts, sequence), batch, sequence, bf16 },
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
      const alone = await openStepOn(new Device("cpu:0", { threads: 1 }), "one thread", task);
      const close = async () => {
        await all.close?.();
        await alone.close?.();
      };
      return { ...all, references: [alone.side], close };
    },
  };
}

/**
 * The routed step beside the dense one, whose time is multiplied by the ratio of their active operations: the ratio is the share of the
 * dense step's rate that routing keeps. And beside itself with all tokens on two experts. Nothing learns, so that routes stay.
 */
function routing(task: TrainStep): Case {
  const { size, experts, batch, sequence } = task;
  const tokens = batch * sequence;
  const flopRatio = forwardFlops(size, experts, sequence) / forwardFlops(size, 0, sequence);
  return {
    family: "routing in a training step",
    name: `${size} ${experts} experts top-2 ${batch}x${sequence}`,
    unit: "tokens/s",
    amount: tokens,
    async open() {
      const still = { ...task, learningRate: 0 };
      const [routed, dense, skewed] = await Promise.all([
        openStep("trefoil", still),
        openStep("dense", { ...still, experts: 0 }),
        openStep("all on two experts", { ...still, oneToken: true }),
      ]);
      const scaled = {
        name: "dense times active FLOPs",
        run: async (repetitions: number) => ({ seconds: flopRatio * (await dense.side.run(repetitions)).seconds }),
      };
      const close = async () => {
        for (const each of [routed, dense, skewed]) await each.close?.();
      };
      return { ...routed, references: [scaled, skewed.side], details: { ...routed.details, flopRatio }, close };
    },
  };
}

/** Dense and routed Llamas, what routing costs, and how the dense 10M scales with threads. */
export function trainStepCases(quick: boolean): Case[] {
  if (quick) {
    const small = { size: "tiny", batch: 2, sequence: 16 } as const;
    return [
      ...[0, 4].map((experts) => trainStep({ ...small, experts })),
      trainStep({ ...small, experts: 4, precision: "bf16-products" }),
      scaling({ ...small, experts: 0 }),
      routing({ ...small, experts: 4 }),
    ];
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
    ...[0, 4].flatMap((experts) => sizes.map((size) => trainStep({ ...size, experts, precision: "bf16-products" }))),
    ...sizes.slice(1).map((size) => routing({ ...size, experts: 4 })),
  ];
}
