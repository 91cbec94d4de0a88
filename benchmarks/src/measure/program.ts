import { compile, Parameter, reshape, slice, type Tensor } from "@trefoil/core";
import type { Opened, Side } from "./side.js";

/** Values in [-1, 1), the same in every run, in device memory: a program reads them without a copy. */
export function uniform(...shape: number[]): Parameter {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  let state = 1;
  for (let i = 0; i < data.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) | 0;
    data[i] = state / 2 ** 31;
  }
  return new Parameter(shape, { data, trainable: false });
}

/** Whole numbers below `bound`, spread evenly. */
export function integers(bound: number, ...shape: number[]): Parameter {
  const data = Int32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.imul(i, 40503) % bound);
  return new Parameter(shape, { data: data.map(Math.abs), trainable: false });
}

/** One element of a result: the kernel must run, but nothing large is copied out. */
const firstElement = (x: Tensor): Tensor => (x.size === 1 ? x : slice(reshape(x, [-1]), 0, 0, 1));

/**
 * A compiled program as a side. `seconds` is what its kernels take by the runtime's own clock, `callSeconds` the whole call
 * from JavaScript.
 * @param body builds what must be computed, over parameters
 * @param counted ops whose time counts; default: all but the one that takes the first element of each result
 */
export function programSide(
  name: string,
  body: () => Tensor | readonly Tensor[],
  counted?: readonly string[],
): Side & { arenaBytes(): number } {
  const program = compile(() => [body()].flat().map(firstElement));
  const isCounted = (op: string) => (counted ? counted.includes(op) : op !== "slice");
  let profiled = 0;
  const kernelSeconds = async (): Promise<number> => {
    const instructions = await program.profile();
    const kernels = instructions.filter(({ op }) => isCounted(op));
    if (kernels.length === 0)
      throw new Error(`${name}: no instruction among ${instructions.map(({ op }) => op).join(", ")} counts`);
    return kernels.reduce((sum, { nanoseconds }) => sum + nanoseconds, 0) / 1e9;
  };
  return {
    name,
    arenaBytes: () => program.memory().arenaBytes,
    async run(repetitions) {
      const begun = performance.now();
      for (let i = 0; i < repetitions; i++) await program();
      const callSeconds = (performance.now() - begun) / 1000 / repetitions;
      // The runtime's profile is a running total.
      let total = profiled;
      for (let i = 0; i < repetitions; i++) total = await kernelSeconds();
      const seconds = (total - profiled) / repetitions;
      profiled = total;
      return { seconds, callSeconds };
    },
  };
}

/** A case's own side from a program over parameters, which are freed when the case ends. */
export function openProgram(
  parameters: readonly Parameter[],
  body: () => Tensor | readonly Tensor[],
  counted?: readonly string[],
): Opened {
  const side = programSide("trefoil", body, counted);
  return {
    side,
    details: { arenaBytes: side.arenaBytes() },
    close: () => {
      for (const parameter of parameters) parameter.dispose();
    },
  };
}
