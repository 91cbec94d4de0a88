import { installCurrentValue, unchanged } from "../ops/op.js";
import { InvalidUseError } from "../tensor/errors.js";
import { Parameter, Tensor, type TensorType } from "../tensor/tensor.js";

/** What one call of a compiled function records: its inputs and the parameter updates, in order. */
export class Trace {
  readonly placeholders: Tensor[] = [];
  readonly assignments = new Map<Parameter, Tensor>();
  /** Every value that a parameter was given, in order. */
  readonly #history = new Map<Parameter, Tensor[]>();
  #streams = 0;
  readonly #atEnd = new Map<object, () => void>();

  placeholder(type: TensorType): Tensor {
    const tensor = new Tensor([...type.shape], type.dtype, { kind: "placeholder", trace: this });
    this.placeholders.push(tensor);
    return tensor;
  }

  assign(parameter: Parameter, value: Tensor): void {
    const fixed = unchanged(value);
    this.assignments.set(parameter, fixed);
    this.#history.set(parameter, [...(this.#history.get(parameter) ?? []), fixed]);
  }

  /** What a tensor stood for, the latest first: of a parameter, what was assigned to it and what it was at the beginning. */
  valuesOf(tensor: Tensor): Tensor[] {
    return tensor instanceof Parameter ? [tensor, ...(this.#history.get(tensor) ?? [])].reverse() : [tensor];
  }

  /** What a tensor stands for by now: of a parameter, what was last assigned to it. */
  valueOf(tensor: Tensor): Tensor {
    return tensor instanceof Parameter ? (this.assignments.get(tensor) ?? tensor) : tensor;
  }

  /** A number that tells the random ops of this program apart. */
  nextStream(): number {
    return this.#streams++;
  }

  /** Runs `action` once when the trace ends, however often it is asked for under `key`. */
  atEnd(key: object, action: () => void): void {
    this.#atEnd.set(key, action);
  }

  /** Runs `body` as the current trace. */
  run<R>(body: () => R): R {
    const outer = current;
    current = this;
    try {
      const result = body();
      for (const action of this.#atEnd.values()) action();
      return result;
    } finally {
      current = outer;
    }
  }
}

let current: Trace | undefined;

/** The trace being recorded, if any. */
export const currentTrace = (): Trace | undefined => current;

/** @throws InvalidUseError outside of a trace, for what assigns parameters that its own values are made from */
export function requireTrace(what: string): void {
  if (!current) throw new InvalidUseError(`${what}: use it inside compile, as part of a training step`);
}

let recorded = false;

/** Runs `body` with parameters as they were when its graph was recorded, whatever was assigned since. */
export function asRecorded<R>(body: () => R): R {
  const outer = recorded;
  recorded = true;
  try {
    return body();
  } finally {
    recorded = outer;
  }
}

// Inside a trace a parameter reads as what was last assigned to it; placeholders may not leave their trace.
installCurrentValue((tensor) => {
  if (tensor.source.kind === "placeholder" && tensor.source.trace !== current) {
    throw new InvalidUseError(
      "this tensor is an argument of a compiled function and has no value outside of it; return it instead",
    );
  }
  return current && !recorded ? current.valueOf(tensor) : tensor;
});
