import { storedDtypes } from "../io/dtype.js";
import type { StoredTensor } from "../io/index.js";
import { Module } from "../nn/module.js";
import { sameShape } from "../tensor/shape.js";
import type { Parameter } from "../tensor/tensor.js";
import { ResumeError } from "./errors.js";

/** What has values that a resumed run needs: AdamW, a random generator, an optimiser of one's own. */
export interface Stateful {
  namedState(): ReadonlyMap<string, Parameter>;
}

/** Parameters of several parts under one prefix each: of modules all, trainable or not. */
export function namedState(parts: Readonly<Record<string, Module | Stateful>>): Map<string, Parameter> {
  return new Map(
    Object.entries(parts).flatMap(([prefix, part]) => {
      const named = part instanceof Module ? part.namedParameters() : part.namedState();
      return [...named].map(([name, parameter]) => [`${prefix}.${name}`, parameter] as const);
    }),
  );
}

/** Copies of the parameters, as files hold them. */
export async function storedTensors(parameters: ReadonlyMap<string, Parameter>): Promise<Record<string, StoredTensor>> {
  const tensors: Record<string, StoredTensor> = {};
  for (const [name, parameter] of parameters) {
    tensors[name] = { dtype: storedDtypes[parameter.dtype], shape: parameter.shape, data: await parameter.data() };
  }
  return tensors;
}

/** Puts the tensors of a checkpoint at `path` into parameters. @throws ResumeError when one is missing or has another shape or dtype; then none is changed */
export function restoreParameters(
  parameters: ReadonlyMap<string, Parameter>,
  tensors: Readonly<Record<string, StoredTensor>>,
  path: string,
): void {
  for (const [name, { dtype, shape }] of parameters) {
    const stored = tensors[name];
    if (stored?.dtype === storedDtypes[dtype] && sameShape(stored.shape, shape)) continue;
    throw new ResumeError(
      `${path} holds ${stored ? "another size of" : "no"} "${name}": resume with the settings the run was started with`,
    );
  }
  for (const [name, parameter] of parameters) {
    parameter.set(tensors[name]!.data as Float32Array | Int32Array | Uint16Array);
  }
}
