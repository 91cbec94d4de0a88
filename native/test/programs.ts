// Small programs over the ops of docs/ops.md, and a device that ends with the test.
import { expect, onTestFinished } from "vitest";
import { addon, dtypeCodes, type ProgramInstruction, type ProgramSpec, type ProgramValue } from "../index.js";

export const native = addon();

export function openCpu(options: { threads?: number } = {}): number {
  const device = native.openDevice({ backend: "cpu", index: 0, ...options });
  onTestFinished(() => native.closeDevice(device));
  return device;
}

export const input = (index: number, ...shape: number[]): ProgramValue => ({
  dtype: dtypeCodes.f32,
  shape,
  kind: "input",
  index,
});
export const temporary = (...shape: number[]): ProgramValue => ({ dtype: dtypeCodes.f32, shape, kind: "temporary" });
export const state = (buffer: number, ...shape: number[]): ProgramValue => ({
  dtype: dtypeCodes.f32,
  shape,
  kind: "state",
  buffer,
});

// Opcodes of `elementwise`.
const opcodes = { add: 2, log: 12, tanh: 17, multiplyImmediate: 34 } as const;

/** One `elementwise` instruction of a single operation. */
export function elementwise(
  opcode: keyof typeof opcodes,
  inputs: number[],
  output: number,
  immediate = 0,
): ProgramInstruction {
  const second = inputs.length > 1 ? 1 : 0;
  return {
    op: "elementwise",
    inputs,
    outputs: [output],
    attributes: [1, opcodes[opcode], 0, second, 0, immediate, inputs.length],
  };
}

/** y = 2x over n elements. */
export function doubling(n: number): ProgramSpec {
  return {
    values: [input(0, n), temporary(n)],
    instructions: [elementwise("multiplyImmediate", [0], 1, 2)],
    outputs: [1],
  };
}

/** total += x, over one element. */
export function accumulating(total: number): ProgramSpec {
  return {
    values: [state(total, 1), input(0, 1)],
    instructions: [elementwise("add", [0, 1], 0)],
    outputs: [],
  };
}

/** A program that keeps the device busy for at least `milliseconds`, on whatever the machine makes of it just now. */
export async function busy(device: number, milliseconds: number): Promise<number> {
  const n = 1 << 16;
  const data = new Float32Array(n).fill(0.5);
  for (let count = 200; ; count *= 2) {
    const program = native.createProgram(device, {
      values: [{ dtype: dtypeCodes.f32, shape: [n], kind: "constant", data }, temporary(n)],
      instructions: Array.from({ length: count }, () => elementwise("tanh", [0], 1)),
      outputs: [],
    });
    const start = performance.now();
    await native.run(program, [], [], 0);
    if (performance.now() - start >= milliseconds) return program;
    native.releaseProgram(program);
  }
}

/** Checks that `action` throws or rejects with `code`, and returns the error for more. */
export async function failure(
  action: () => unknown,
  code: string,
): Promise<Error & { op?: string; instruction?: number }> {
  let caught: unknown;
  try {
    await action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(Error);
  expect(caught).toHaveProperty("code", code);
  return caught as Error;
}
