import { type Device, DeviceProgram, defaultDevice, type RunInput, Storage } from "../device/index.js";
import { opOf } from "../ops/op.js";
import { allocateHost, type HostArray } from "../tensor/dtype.js";
import { InvalidUseError } from "../tensor/errors.js";
import { installEvaluator, type OpNode, Parameter, type Tensor } from "../tensor/tensor.js";
import { evaluatedTensors } from "./evaluated.js";
import { lower } from "./lower.js";
import { numberText } from "./number-text.js";
import { requireUnchanged, topologicalOrder } from "./order.js";
import { currentTrace } from "./trace.js";

/** What a run reads of a leaf: its device buffer, or host data that is staged. */
function leafInput(leaf: Tensor): RunInput {
  if (leaf instanceof Parameter) return parameterBuffer(leaf);
  if (leaf.source.kind === "host") return leaf.source.data;
  if (leaf.source.kind === "storage") return leaf.source.storage.handle;
  throw new InvalidUseError(
    "this tensor is an argument of a compiled function and has no value outside of it; return it instead",
  );
}

/**
 * What a run reads of an argument. One that is still to be computed is enqueued first, into a buffer: the run keeps its place among those
 * of the device, and fails where this computation does.
 */
export function argumentInput(argument: Tensor, device: Device): RunInput {
  const { source } = argument;
  if (source.kind === "full" && argument.dtype !== "bf16") {
    const data = filled(argument, source.value);
    argument.source = { kind: "host", data };
    return data;
  }
  if (source.kind !== "op" && source.kind !== "full") return leafInput(argument);
  const { program, leaves } = programFor(argument, device);
  const storage = new Storage(device, argument.bytes);
  program.run(leaves.map(leafInput), [storage.handle], { failNext: true }).then(
    () => {
      argument.source = { kind: "storage", storage };
      evaluatedTensors.add(argument);
    },
    () => undefined,
  );
  return storage.handle;
}

const filled = ({ dtype, size }: Tensor, value: number): HostArray => allocateHost(dtype, size).fill(value);

/** The device buffer of a parameter, made on first use on the default device. */
export const parameterBuffer = (parameter: Parameter): number =>
  parameter.storage((bytes) => new Storage(defaultDevice(), bytes)).handle;

/** The same structure over other leaves runs the same program of a device. */
function structureOf(order: readonly OpNode[], root: Tensor): { key: string; leaves: Tensor[] } {
  const leaves = new Map<Tensor, number>();
  const numbers = new Map(order.map((node, number) => [node, number]));
  const reference = (tensor: Tensor | null): string => {
    if (!tensor) return "_";
    if (tensor.source.kind === "op") return `${numbers.get(tensor.source.node)}.${tensor.source.output}`;
    if (tensor.source.kind === "full") return `=${numberText(tensor.source.value)}${tensor.dtype}[${tensor.shape}]`;
    if (!leaves.has(tensor)) leaves.set(tensor, leaves.size);
    return `i${leaves.get(tensor)}${tensor.dtype}[${tensor.shape}]`;
  };
  const lines = order.map((node) => {
    const types = node.outputs.map((type) => `${type.dtype}[${type.shape}]`);
    return `${opOf(node).name}(${node.inputs.map(reference).join(",")}){${node.attributes.map(numberText)}}${types}`;
  });
  return { key: `${lines.join(";")}->${reference(root)}`, leaves: [...leaves.keys()] };
}

const programs = new Map<string, DeviceProgram>();
const maxPrograms = 256;

function programFor(root: Tensor, target = defaultDevice()): { program: DeviceProgram; leaves: Tensor[] } {
  const order = topologicalOrder([root]);
  requireUnchanged(order);
  const { key: structure, leaves } = structureOf(order, root);
  const key = `${target.handle} ${structure}`;
  let program = programs.get(key);
  // Least recently used first.
  if (program) programs.delete(key);
  else {
    program = new DeviceProgram(target, lower([root], new Map(), leaves).spec(parameterBuffer));
  }
  programs.set(key, program);
  if (programs.size > maxPrograms) {
    const [oldest, unused] = programs.entries().next().value!;
    programs.delete(oldest);
    unused.dispose();
  }
  return { program, leaves };
}

async function evaluate(root: Tensor): Promise<HostArray> {
  if (currentTrace())
    throw new InvalidUseError("a value cannot be read while a function is being compiled; return the tensor instead");
  // A word of bf16 is not its value.
  if (root.source.kind === "full" && root.dtype !== "bf16") return filled(root, root.source.value);
  const target = allocateHost(root.dtype, root.size);
  if (root.source.kind === "storage") {
    await root.source.storage.read(target);
    return target;
  }
  const { program, leaves } = programFor(root);
  await program.run(leaves.map(leafInput), [target]);
  root.source = { kind: "host", data: target };
  evaluatedTensors.add(root);
  return target;
}

function assign(parameter: Parameter, value: Tensor): void {
  const trace = currentTrace();
  if (trace) {
    trace.assign(parameter, value);
    return;
  }
  const { program, leaves } = programFor(value);
  parameter.version++;
  // Ordered with every later run and read, so nothing has to wait for it. Where it fails the parameter keeps its value, and the next run or
  // read reports the error.
  program.run(leaves.map(leafInput), [parameterBuffer(parameter)], { failNext: true }).catch(() => undefined);
}

installEvaluator({ evaluate, assign });
