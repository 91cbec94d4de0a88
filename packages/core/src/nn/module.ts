import { dtypeOf } from "../tensor/dtype.js";
import { InvalidUseError, ShapeError } from "../tensor/errors.js";
import { sameShape } from "../tensor/shape.js";
import { Parameter } from "../tensor/tensor.js";

const snakeCase = (name: string): string => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/**
 * A layer or model: an object whose properties are parameters, modules, or arrays of them. Names follow the properties in
 * snake case, `layers.0.self_attn.q_proj.weight`, which are Hugging Face's names where a model follows its layout.
 */
export abstract class Module implements Disposable {
  /** Every parameter once, under the first name it is met by; tied weights are not repeated. */
  namedParameters(prefix = ""): Map<string, Parameter> {
    const found = new Map<string, Parameter>();
    const seen = new Set<Parameter>();
    const visit = (value: unknown, name: string): void => {
      if (value instanceof Parameter) {
        if (!seen.has(value)) found.set(name, value);
        seen.add(value);
      } else if (value instanceof Module) {
        for (const [key, child] of Object.entries(value))
          visit(child, name ? `${name}.${snakeCase(key)}` : snakeCase(key));
      } else if (Array.isArray(value)) {
        value.forEach((child, i) => {
          visit(child, `${name}.${i}`);
        });
      }
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

  /** Copies of all parameters by name. */
  async state(): Promise<Record<string, { shape: readonly number[]; data: Float32Array | Int32Array | Uint16Array }>> {
    const entries = [...this.namedParameters()].map(async ([name, parameter]) => {
      return [name, { shape: parameter.shape, data: await parameter.data() }] as const;
    });
    return Object.fromEntries(await Promise.all(entries));
  }

  /**
   * Sets parameters by name: all of them, or none.
   * @throws InvalidUseError when names are missing or unknown, ShapeError when values do not fit
   */
  loadState(
    state: Readonly<Record<string, { shape?: readonly number[]; data: Float32Array | Int32Array | Uint16Array }>>,
  ): void {
    const parameters = this.namedParameters();
    const missing = [...parameters.keys()].filter((name) => !(name in state));
    const unknown = Object.keys(state).filter((name) => !parameters.has(name));
    if (missing.length > 0 || unknown.length > 0) {
      throw new InvalidUseError(`loadState: missing [${missing.join(", ")}], unknown [${unknown.join(", ")}]`);
    }
    for (const [name, { dtype, shape, size }] of parameters) {
      const given = state[name]!;
      const fits = given.data.length === size && dtypeOf(given.data) === dtype;
      if (fits && (!given.shape || sameShape(given.shape, shape))) continue;
      const got = `${given.data.length} values of ${dtypeOf(given.data)}`;
      throw new ShapeError(`loadState: "${name}"`, `got ${got} for ${dtype}`, [
        given.shape ?? [given.data.length],
        shape,
      ]);
    }
    for (const [name, parameter] of parameters) parameter.set(state[name]!.data);
  }
}
