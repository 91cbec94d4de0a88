import type { Storage } from "../device/index.js";
import { allocateHost, checkDtype, type Dtype, dtypeBytes, dtypeOf, type HostArray, numberAt } from "./dtype.js";
import { InvalidUseError, ShapeError } from "./errors.js";
import { checkShape, elementCount, type Shape, sameShape } from "./shape.js";
import { WeakHolders } from "./weak-holders.js";

/** What a kernel sees of a tensor. */
export interface TensorType {
  readonly shape: Shape;
  readonly dtype: Dtype;
}

/** One use of an op. Attributes are already in the numeric form that kernels read (docs/ops.md). */
export interface OpNode {
  readonly op: OpSpec;
  readonly inputs: readonly (Tensor | null)[];
  readonly attributes: readonly number[];
  readonly outputs: readonly TensorType[];
  /** Which version of each parameter among the inputs was there when the node was built. */
  readonly versions?: readonly (readonly [Parameter, number])[];
}

/** What the tensor layer knows of an op; `ops/op.ts` has the rest. */
export interface OpSpec {
  readonly name: string;
}

/** Where a tensor's value comes from. */
export type Source =
  | { readonly kind: "op"; readonly node: OpNode; readonly output: number }
  | { readonly kind: "host"; readonly data: HostArray }
  | { readonly kind: "storage"; readonly storage: Storage }
  | { readonly kind: "full"; readonly value: number }
  | { readonly kind: "placeholder"; readonly trace: object }
  | { readonly kind: "parameter" };

/** Runs what a tensor needs. The graph layer, which stands above this one, installs it. */
export interface Evaluator {
  evaluate(tensor: Tensor): Promise<HostArray>;
  assign(parameter: Parameter, value: Tensor): void;
}

let evaluator: Evaluator | undefined;

export function installEvaluator(next: Evaluator): void {
  evaluator = next;
}

function requireEvaluator(): Evaluator {
  if (!evaluator) throw new InvalidUseError('import tensors from "@trefoil/core": its graph layer evaluates them');
  return evaluator;
}

export type NestedArray = number | readonly NestedArray[];

/**
 * An immutable value of a shape and dtype. Building one runs no kernel and holds no memory: inside `compile` it becomes
 * part of a program; outside, `await x.data()` runs what it needs.
 */
export class Tensor {
  readonly shape: Shape;
  readonly dtype: Dtype;
  /** @internal Replaced once by the computed value when an eager tensor has been evaluated. */
  source: Source;

  /** @internal Use `tensor`, `zeros`, … or an op. */
  constructor(shape: Shape, dtype: Dtype, source: Source) {
    this.shape = shape;
    this.dtype = dtype;
    this.source = source;
  }

  get rank(): number {
    return this.shape.length;
  }

  /** Number of elements. */
  get size(): number {
    return elementCount(this.shape);
  }

  /** Bytes of the value. */
  get bytes(): number {
    return this.size * dtypeBytes[this.dtype];
  }

  /** The values in row-major order: a Float32Array, Int32Array, or the 16-bit words of bf16. */
  async data(): Promise<HostArray> {
    if (this.source.kind === "host") return this.source.data;
    return requireEvaluator().evaluate(this);
  }

  /** The single value of a tensor of one element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError("item", "needs a tensor of one element", [this.shape]);
    const data = await this.data();
    return numberAt(data, 0, this.dtype);
  }

  /** The values as nested arrays. */
  async toArray(): Promise<NestedArray> {
    const data = await this.data();
    let at = 0;
    const build = (axis: number): NestedArray =>
      axis === this.rank
        ? numberAt(data, at++, this.dtype)
        : Array.from({ length: this.shape[axis]! }, () => build(axis + 1));
    return build(0);
  }

  /** Frees the device memory of a large result now instead of at garbage collection; other tensors hold none. */
  dispose(): void {
    if (this.source.kind === "storage") this.source.storage.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal JavaScript would add, compare and convert the text. */
  [Symbol.toPrimitive](hint: string): string {
    if (hint === "string") return this.toString();
    throw new InvalidUseError(
      "a tensor is no number: use ops (add, mul, less, where, …), or `await x.item()` outside of compiled functions",
    );
  }

  toString(): string {
    return `Tensor(${this.dtype}[${this.shape.join(", ")}])`;
  }

  /** As text: what a tensor holds is not in it. */
  toJSON(): string {
    return this.toString();
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

/** A tensor whose value lives on a device and can be replaced: weights, optimiser moments, caches, counters. */
export class Parameter extends Tensor {
  /** Whether `valueAndGrad` over a module's parameters includes it. */
  trainable: boolean;
  /** @internal Counts changes of the value: tells whether a copy of it still is one. */
  version = 0;
  /** @internal What lives no longer than it does: freed with it. */
  readonly attached: { dispose(): void }[] = [];
  /** @internal Compiled programs with its buffer in them, which keep the memory: freed with it. */
  readonly programs = new WeakHolders();
  #storage: Storage | undefined;
  #initial: HostArray | undefined;

  /** Copies nothing: `data` is uploaded at the first use. Without data the value starts as zeros. */
  constructor(shape: Shape, options: { dtype?: Dtype; data?: HostArray; trainable?: boolean } = {}) {
    checkShape("Parameter", shape);
    const held = options.data && dtypeOf(options.data);
    const dtype = options.dtype ?? held ?? "f32";
    checkDtype("Parameter", dtype);
    if (held && held !== dtype) {
      throw new InvalidUseError(`Parameter: the array holds ${held}, not ${dtype}; convert it, or drop dtype`);
    }
    super([...shape], dtype, { kind: "parameter" });
    if (options.data && options.data.length !== this.size) {
      throw new ShapeError("Parameter", `got ${options.data.length} values for ${this.size} elements`, [shape]);
    }
    this.#initial = options.data;
    this.trainable = options.trainable ?? true;
  }

  /** @internal The buffer, made by `create` on the first use. */
  storage(create: (bytes: number) => Storage): Storage {
    if (!this.#storage) {
      this.#storage = create(this.bytes);
      if (this.#initial) this.#storage.write(this.#initial);
      this.#initial = undefined;
    }
    return this.#storage;
  }

  override async data(): Promise<HostArray> {
    if (!this.#storage) return this.#initial?.slice() ?? allocateHost(this.dtype, this.size);
    const target = allocateHost(this.dtype, this.size);
    await this.#storage.read(target);
    return target;
  }

  /** Replaces the value from host data; ordered with the runs around it. */
  set(data: HostArray): void {
    if (dtypeOf(data) !== this.dtype || data.length !== this.size) {
      throw new ShapeError(
        "Parameter.set",
        `needs ${this.size} values of ${this.dtype}, got ${data.length} of ${dtypeOf(data)}`,
        [this.shape],
      );
    }
    this.version++;
    if (this.#storage) this.#storage.write(data);
    else this.#initial = data.slice();
  }

  /** Inside `compile`: the value after this step. Outside: enqueues the update now. */
  assign(value: Tensor): void {
    if (!sameShape(this.shape, value.shape) || this.dtype !== value.dtype) {
      throw new ShapeError("assign", `a ${value.dtype} value does not fit a ${this.dtype} parameter`, [
        this.shape,
        value.shape,
      ]);
    }
    requireEvaluator().assign(this, value);
  }

  /** Frees the device memory now. */
  override dispose(): void {
    this.#storage?.dispose();
    for (const each of this.attached) each.dispose();
    this.programs[Symbol.dispose]();
  }

  override toString(): string {
    return `Parameter(${this.dtype}[${this.shape.join(", ")}])`;
  }
}

function flatten(values: NestedArray, shape: number[], depth: number, out: number[]): void {
  if (typeof values === "number") {
    if (depth !== shape.length) throw new ShapeError("tensor", "nested arrays are ragged", [shape]);
    out.push(values);
    return;
  }
  if (!Array.isArray(values))
    throw new InvalidUseError(`tensor: values must be numbers in arrays, and there is a ${typeof values}`);
  if (shape.length === depth && out.length === 0) shape.push(values.length);
  if (shape[depth] !== values.length) throw new ShapeError("tensor", "nested arrays are ragged", [shape]);
  for (const value of values) flatten(value, shape, depth + 1, out);
}

/**
 * A tensor from host data. Nested arrays and numbers become f32 unless `dtype` says otherwise; a typed array keeps its
 * dtype, is not copied, and must not change while the tensor is in use.
 */
export function tensor(values: NestedArray | HostArray, options: { shape?: Shape; dtype?: Dtype } = {}): Tensor {
  if (Array.isArray(options)) throw new InvalidUseError("tensor: write the shape as tensor(values, { shape: [2, 3] })");
  let data: HostArray;
  let shape: number[];
  if (ArrayBuffer.isView(values)) {
    data = values;
    shape = [values.length];
    if (options.dtype && options.dtype !== dtypeOf(data)) {
      throw new InvalidUseError(
        `tensor: the array holds ${dtypeOf(data)}, not ${options.dtype}; convert it, or drop dtype`,
      );
    }
  } else {
    const flat: number[] = [];
    shape = [];
    flatten(values, shape, 0, flat);
    const dtype = options.dtype ?? "f32";
    checkDtype("tensor", dtype);
    if (dtype === "bf16") throw new InvalidUseError("tensor: make an f32 tensor and cast it to bf16");
    data = dtype === "f32" ? Float32Array.from(flat) : Int32Array.from(flat);
  }
  const finalShape = options.shape ? [...options.shape] : shape;
  checkShape("tensor", finalShape);
  if (elementCount(finalShape) !== data.length) {
    throw new ShapeError("tensor", `${data.length} values do not fill the shape`, [finalShape]);
  }
  return new Tensor(finalShape, dtypeOf(data), { kind: "host", data });
}

/** A tensor with every element `value`; costs no memory. */
export function full(shape: Shape, value: number, dtype: Dtype = "f32"): Tensor {
  checkShape("full", shape);
  checkDtype("full", dtype);
  return new Tensor([...shape], dtype, { kind: "full", value });
}

export const zeros = (shape: Shape, dtype: Dtype = "f32"): Tensor => full(shape, 0, dtype);
export const ones = (shape: Shape, dtype: Dtype = "f32"): Tensor => full(shape, 1, dtype);
