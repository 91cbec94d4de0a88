import { storedDtypes } from "../io/dtype.js";
import type { StoredTensor } from "../io/safetensors-writer.js";
import { dtypeOf, type HostArray } from "../tensor/dtype.js";
import { InvalidUseError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import { Parameter } from "../tensor/tensor.js";

/** What may hold parameters in a module, by name. */
function childrenOf(value: object): (readonly [string, unknown])[] {
  if (Array.isArray(value)) return value.map((child, i) => [String(i), child] as const);
  if (value instanceof Map) return [...value].map(([key, child]) => [String(key), child] as const);
  const prototype: unknown = Object.getPrototypeOf(value);
  const named = value instanceof Module || prototype === Object.prototype || prototype === null;
  return named ? Object.entries(value).map(([key, child]) => [snakeCase(key), child] as const) : [];
}

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/**
 * A layer or model: an object whose properties are parameters, modules, or arrays, plain objects and maps of them. Names follow
 * the properties in snake case, `layers.0.self_attn.q_proj.weight`, which are Hugging Face's names where a model follows its layout.
 * Nobody can see into `#private` fields: what is there is neither trained nor saved. TypeScript's `private` is seen.
 */
export abstract class Module implements Disposable {
  /** Every parameter once, under the first name it is met by; tied weights are not repeated. */
  namedParameters(prefix = ""): Map<string, Parameter> {
    const found = new Map<string, Parameter>();
    const seen = new Set<unknown>();
    const visit = (value: unknown, name: string): void => {
      if (typeof value !== "object" || value === null || seen.has(value)) return;
      seen.add(value);
      if (value instanceof Parameter) found.set(name, value);
      else for (const [key, child] of childrenOf(value)) visit(child, name ? `${name}.${key}` : key);
    };
    visit(this, prefix);
    return found;
  }

  /** The trainable parameters, in the order of `namedParameters`. */
  parameters(): Parameter[] {
    return [...this.namedParameters().values()].filter(({ trainable }) => trainable);
  }

  /** Number of values in all parameters. */
  parameterCount(): number {
    return [...this.namedParameters().values()].reduce((total, { size }) => total + size, 0);
  }

  /** Frees what all parameters hold on the device, rather than at garbage collection; the module cannot be used afterwards. */
  dispose(): void {
    for (const parameter of this.namedParameters().values()) parameter.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Copies of all parameters by name, for `loadState` and `saveSafetensors`. */
  async state(): Promise<Record<string, StoredTensor & { readonly data: HostArray }>> {
    const entries = [...this.namedParameters()].map(async ([name, parameter]) => {
      const { dtype, shape } = parameter;
      return [name, { dtype: storedDtypes[dtype], shape, data: await parameter.data() }] as const;
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  /**
   * Sets parameters by name, from `state()` or `loadSafetensors`: all of them, or none. `restoreParameters` sets some.
   * @throws InvalidUseError when names are missing or unknown, ShapeError when values do not fit
   */
  loadState(
    state: Readonly<Record<string, { readonly shape?: readonly number[]; readonly data: ArrayBufferView }>>,
  ): void {
    const parameters = this.namedParameters();
    const missing = [...parameters.keys()].filter((name) => !(name in state));
    const unknown = Object.keys(state).filter((name) => !parameters.has(name));
    if (missing.length > 0 || unknown.length > 0) {
      throw new InvalidUseError(`loadState: missing [${missing.join(", ")}], unknown [${unknown.join(", ")}]`);
    }
    for (const [name, { dtype, shape, size }] of parameters) {
      const given = state[name]!;
      const data = given.data as HostArray; // dtypeOf refuses any other
      const found = dtypeOf(data);
      if (data.length === size && found === dtype && (!given.shape || sameShape(given.shape, shape))) continue;
      const got = `${data.length} values of ${found}`;
      throw new ShapeError(`loadState: "${name}"`, `got ${got} for ${dtype}`, [given.shape ?? [data.length], shape]);
    }
    for (const [name, parameter] of parameters) parameter.set(state[name]!.data as HostArray);
  }
}
