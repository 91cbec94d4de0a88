import type { StoredTensor } from "../io/index.js";
import type { Module } from "../nn/module.js";
import { AdamW } from "../optim/adamw.js";
import type { Parameter } from "../tensor/tensor.js";
import { ResumeError } from "./errors.js";

/** Parameters of several parts under one prefix each. */
export function namedState(parts: Readonly<Record<string, Module | AdamW>>): Map<string, Parameter> {
  return new Map(
    Object.entries(parts).flatMap(([prefix, part]) => {
      const named = part instanceof AdamW ? part.namedState() : part.namedParameters();
      return [...named].map(([name, parameter]) => [`${prefix}.${name}`, parameter] as const);
    }),
  );
}

/** Copies of the parameters, as files hold them. */
export async function storedTensors(parameters: ReadonlyMap<string, Parameter>): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, parameter] of parameters) {
    const dtype = ({ f32: "F32", i32: "I32", bf16: "BF16" } as const)[parameter.dtype];
    tensors[name] = { dtype, shape: parameter.shape, data: await parameter.data() };
  }
  return tensors;
}

/** Puts the tensors of a checkpoint at `path` into parameters. @throws ResumeError when one is missing or has another size */
export function restoreParameters(
  parameters: ReadonlyMap<string, Parameter>,
  tensors: Readonly<Record<string, StoredTensor>>,
  path: string,
): void {
  for (const [name, parameter] of parameters) {
    const stored = tensors[name];
    if (stored?.data.byteLength !== parameter.bytes) {
      throw new ResumeError(
        `${path} holds ${stored ? "another size of" : "no"} "${name}": resume with the settings the run was started with`,
      );
    }
    parameter.set(stored.data as Float32Array | Int32Array | Uint16Array);
  }
}
