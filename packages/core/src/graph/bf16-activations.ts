import { sameShape } from "../tensor/shape.js";
import { type Instruction, type ProgramBuilder, rootOf, type Value } from "./program.js";
import type { ElementwiseNode, Step } from "./step.js";

interface Places {
  readonly inputs: readonly number[];
  readonly outputs: readonly number[];
}

/**
 * What may be stored as bf16 between kernels. Not here, and so f32: statistics, losses, gradients of parameters, what decides (router
 * logits, latents whose nearest code is wanted), and the residual stream, which is what norms read and the gradient that they give for it.
 */
const places: Readonly<Record<string, Places>> = {
  rms_norm: { inputs: [], outputs: [0] },
  rms_norm_grad: { inputs: [0], outputs: [] },
  layer_norm: { inputs: [], outputs: [0] },
  layer_norm_grad: { inputs: [0], outputs: [] },
  swiglu: { inputs: [0], outputs: [0] },
  swiglu_grad: { inputs: [0, 1], outputs: [0] },
  rope: { inputs: [0], outputs: [0] },
  rope_to_cache_: { inputs: [0], outputs: [0] },
  matmul: { inputs: [0, 1, 3], outputs: [0] },
  grouped_matmul: { inputs: [0, 1], outputs: [0] },
  grouped_matmul_weight_grad: { inputs: [0, 1], outputs: [] },
  attention: { inputs: [0, 1, 2], outputs: [0] },
  attention_grad: { inputs: [0, 1, 2, 3, 4], outputs: [0, 1, 2] },
  conv2d: { inputs: [0], outputs: [0] },
  conv2d_input_grad: { inputs: [0], outputs: [0] },
  conv2d_weight_grad: { inputs: [0, 1], outputs: [] },
  group_norm: { inputs: [], outputs: [0] },
  group_norm_grad: { inputs: [0], outputs: [] },
  upsample_nearest2: { inputs: [0], outputs: [0] },
  sum_pool2: { inputs: [0], outputs: [0] },
  linear_cross_entropy: { inputs: [0], outputs: [2] },
  moe_combine: { inputs: [0], outputs: [0] },
  moe_combine_grad: { inputs: [0, 1], outputs: [0] },
  gather_rows: { inputs: [0], outputs: [0] },
  scatter_add_rows: { inputs: [0], outputs: [0] },
  transpose: { inputs: [0], outputs: [0] },
  slice: { inputs: [0], outputs: [0] },
  pad: { inputs: [0], outputs: [0] },
  concat: { inputs: [], outputs: [0] }, // any number of inputs: see `accepts`
};

/** They give what they are given: bf16 only where they get it, so that no table of numbers is rounded on its way. */
const movement: ReadonlySet<string> = new Set("gather_rows scatter_add_rows transpose slice pad concat".split(" "));
/** Of these, the kernels for which operands and result must have one type. */
const oneType: ReadonlySet<string> = new Set(["transpose", "slice", "pad", "concat"]);

/** Operands that products round to bf16 anyway (but those of weight gradients of convolutions over channels that do not fill chunks of eight). */
const products: Readonly<Record<string, readonly number[]>> = {
  matmul: [0, 1],
  grouped_matmul: [0, 1],
  grouped_matmul_weight_grad: [0, 1],
  conv2d: [0, 1],
  conv2d_input_grad: [0, 1],
  conv2d_weight_grad: [0, 1],
};

function accepts({ op, inputs }: Instruction, input: number): boolean {
  if (op === "update_rows_") return input === 1 && inputs[0]?.dtype === "bf16";
  if (op === "concat") return true;
  return places[op]?.inputs.includes(input) ?? false;
}

const operandsOf = ({ output, instructions }: ElementwiseNode): Value[] => {
  const results = new Set([output, ...instructions.map(({ result }) => result)]);
  return instructions
    .flatMap(({ operands }) => operands)
    .filter((value) => !results.has(value) && value.origin.kind !== "fill");
};

/**
 * Stores values between kernels that take and give bf16 as bf16: half the bytes to move and to keep for the backward pass, and operands
 * of products that need no packing. A value becomes bf16 only if everybody who reads it takes that; an elementwise chain does where all it
 * reads of its own size is bf16 and only kernels read it. Values that stay f32 and that several products read get one bf16 copy.
 */
export function storeActivationsAsBf16(
  steps: readonly Step[],
  program: ProgramBuilder,
  pinned: ReadonlySet<Value>,
): Step[] {
  for (const value of findNarrow(steps, pinned)) value.dtype = "bf16";
  for (const value of program.values) if (value.alias) value.dtype = rootOf(value).dtype;
  return shareRounded(steps, program);
}

function findNarrow(steps: readonly Step[], pinned: ReadonlySet<Value>): Set<Value> {
  const narrow = new Set<Value>();
  const chains = new Set<Value>();
  const widen = (value: Value | null | undefined): boolean => (value ? narrow.delete(rootOf(value)) : false);
  const isNarrow = (value: Value): boolean => narrow.has(rootOf(value)) || rootOf(value).dtype === "bf16";

  for (const step of steps) {
    const { outputs, allowed } =
      step.kind === "elementwise"
        ? { outputs: [step.node.output], allowed: [0] }
        : { outputs: step.instruction.outputs, allowed: places[step.instruction.op]?.outputs ?? [] };
    if (step.kind === "elementwise") chains.add(step.node.output);
    for (const at of allowed) {
      const value = outputs[at];
      if (value && value.dtype === "f32" && !value.alias && value.origin.kind === "temporary") narrow.add(value);
    }
  }
  pinned.forEach(widen);
  for (const step of steps) {
    if (step.kind === "kernel") {
      step.instruction.inputs.forEach((value, input) => {
        if (!accepts(step.instruction, input)) widen(value);
      });
    } else {
      const { output } = step.node;
      for (const value of operandsOf(step.node))
        if (chains.has(rootOf(value)) || !sameShape(value.shape, output.shape)) widen(value);
    }
  }
  // What one value may be depends on others: until nothing changes. Values only go from bf16 to f32.
  for (let changed = true; changed; ) {
    changed = false;
    const widenAll = (values: readonly (Value | null | undefined)[]): void => {
      for (const value of values) if (widen(value)) changed = true;
    };
    for (const step of steps) {
      if (step.kind === "elementwise") {
        const { output } = step.node;
        const operands = operandsOf(step.node);
        const own = operands.filter(({ shape }) => sameShape(shape, output.shape));
        if (!narrow.has(output) || own.length === 0 || !own.every(isNarrow)) widenAll([output, ...operands]);
        continue;
      }
      const { op, inputs, outputs } = step.instruction;
      if (!movement.has(op)) continue;
      const moved = op === "concat" ? inputs : [inputs[0]];
      if (!moved.every((value) => value && isNarrow(value))) widenAll([outputs[0]]);
      if (oneType.has(op) && outputs[0] && !isNarrow(outputs[0])) widenAll(moved);
    }
  }
  return narrow;
}

/** One bf16 copy of each f32 value that several products read, made by the elementwise chain that makes the value if there is one. */
function shareRounded(steps: readonly Step[], program: ProgramBuilder): Step[] {
  const reads = new Map<Value, { instruction: Instruction; input: number }[]>();
  for (const step of steps) {
    if (step.kind !== "kernel") continue;
    for (const input of products[step.instruction.op] ?? []) {
      const value = step.instruction.inputs[input];
      if (value?.dtype !== "f32" || rootOf(value).origin.kind !== "temporary") continue;
      const found = reads.get(rootOf(value)) ?? [];
      found.push({ instruction: step.instruction, input });
      reads.set(rootOf(value), found);
    }
  }
  return steps.flatMap((step) => {
    const made = step.kind === "kernel" ? step.instruction.outputs : [step.node.output];
    const copies = made.flatMap((value): Step[] => {
      const readers = value ? (reads.get(value) ?? []) : [];
      if (!value || readers.length < 2) return [];
      const copy = program.temporary(value.shape, "bf16");
      for (const { instruction, input } of readers) {
        const { shape } = instruction.inputs[input]!;
        instruction.inputs[input] = sameShape(shape, copy.shape) ? copy : program.temporary(shape, "bf16", copy);
      }
      if (step.kind === "elementwise") {
        step.node.rounded = copy;
        return [];
      }
      const instructions = [{ opcode: 0, operands: [value], immediate: 0, result: copy }];
      return [{ kind: "elementwise", node: { output: copy, instructions } }];
    });
    return [step, ...copies];
  });
}
