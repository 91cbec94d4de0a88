import { existsSync } from "node:fs";
import {
  addon,
  backendLibraryPaths,
  type DeviceInfo,
  type MemoryUse,
  type NativeAddon,
  type ProgramSpec,
  runFlags,
  TrefoilError,
} from "@trefoil/native";
import { DeviceUnavailableError } from "./errors.js";
import { requireHostMemory } from "./host-memory.js";

export const precisions = ["f32", "bf16-products", "bf16"] as const;
export type Precision = (typeof precisions)[number];

export interface DeviceOptions {
  /** Threads of the CPU device. Default: `TREFOIL_THREADS`, else the cores this process may use. */
  threads?: number;
  /** Force an instruction set: "scalar", "avx2", "avx512" or "neon". Default: `TREFOIL_ISA`, else the best there is. */
  isa?: string;
  /**
   * "bf16-products": operands of matrix products and of attention are rounded to bf16, all else is f32. On the CPU not those of products of few
   * rows, of convolutions of more than one pixel, and of attention for few queries or without AVX512-BF16. "bf16": on CUDA, values between kernels are stored as bf16 besides, while sums, parameters,
   * moments, statistics, losses and the residual stream are f32. "f32": neither. Default: `TREFOIL_PRECISION`, else "f32" on the CPU and "bf16"
   * on CUDA.
   */
  precision?: Precision;
  /** Absolute path of the backend's library. Default: the one that `build:cuda` made in `@trefoil/native`. */
  library?: string;
}

const noSuchName = (name: string) =>
  new DeviceUnavailableError(name, "that is no name of a device", [], 'Write "cpu", "cuda" or "cuda:1".');

/** The parts of "cuda:1". */
function parseName(name: string): { backend: string; index: number } {
  const [, backend, index = "0"] = /^([a-z_]+)(?::(\d{1,4}))?$/.exec(name) ?? [];
  if (backend === undefined) throw noSuchName(name);
  return { backend, index: Number(index) };
}

function openNative(native: NativeAddon, name: string, options: DeviceOptions): number {
  const { backend, index } = parseName(name);
  if (backend === "cpu") return native.openDevice({ backend, index, ...options });
  if (backend !== "cuda" && options.library === undefined) throw noSuchName(name);
  const paths = options.library === undefined ? backendLibraryPaths(backend) : [options.library];
  const library = paths.find((path) => existsSync(path));
  if (library === undefined) {
    const attempts = paths.map((path) => ({ path, reason: "no such file" }));
    throw new DeviceUnavailableError(name, `the library of backend "${backend}" is not there`, attempts);
  }
  try {
    return native.openDevice({ backend, index, ...options, library });
  } catch (error) {
    const code = error instanceof Error && "code" in error ? error.code : undefined;
    if (!(error instanceof Error) || code !== "TREFOIL_DEVICE_UNAVAILABLE") throw error;
    const attempts = [{ path: library, reason: "opened" }];
    throw new DeviceUnavailableError(name, error.message, attempts, undefined, { cause: error });
  }
}

/** By code. */
const bytesOfDtype: readonly number[] = [4, 4, 2, 1];

export type RunInput = number | ArrayBufferView;
export type RunOutput = number | ArrayBufferView;

/** A program that the device holds; freed with `dispose()` or when nobody refers to it any more. */
export class DeviceProgram implements Disposable {
  readonly device: Device;
  #handle: number | undefined;

  /** @throws OutOfMemoryError when the values of a run do not fit the memory of the CPU's machine all together */
  constructor(device: Device, spec: ProgramSpec) {
    this.device = device;
    this.#handle = device.addon.createProgram(device.handle, spec);
    net.register(this, { device, handle: this.#handle }, this);
    // Before anything is touched: the system would grant the memory, and end the process that uses it.
    if (device.info.backend === "cpu") this.#requireMemory(spec);
  }

  #requireMemory({ values }: ProgramSpec): void {
    let bytes = this.info().arenaBytes;
    for (const { kind, alias, shape, dtype } of values) {
      if ((kind === "input" || kind === "state") && alias === undefined)
        bytes += shape.reduce((product, size) => product * size, bytesOfDtype[dtype]!);
    }
    try {
      requireHostMemory(
        bytes,
        "what one run of this program reads and computes",
        "use a smaller batch or shorter rows; in training also gradient accumulation or recomputed activations",
      );
    } catch (error) {
      this.dispose();
      throw error;
    }
  }

  /** Enqueues a run; resolves when it is done and host outputs are filled. */
  run(
    inputs: RunInput[],
    outputs: RunOutput[],
    options: { checkFinite?: boolean; profile?: boolean; failNext?: boolean } = {},
  ): Promise<void> {
    const flags = (["checkFinite", "profile", "failNext"] as const).reduce(
      (sum, flag) => sum + (options[flag] ? runFlags[flag] : 0),
      0,
    );
    return this.device.addon.run(this.handle, inputs, outputs, flags);
  }

  /** Nanoseconds per instruction, summed over the runs with `profile`. */
  profile(): Float64Array {
    return this.device.addon.programProfile(this.handle);
  }

  /** Bytes of the planned arena, of which workspace, and what the temporaries would take without sharing. */
  info(): { arenaBytes: number; workspaceBytes: number; temporaryBytes: number } {
    return this.device.addon.programInfo(this.handle);
  }

  get handle(): number {
    if (this.#handle === undefined) throw new TrefoilError("TREFOIL_INVALID_USE", "this program was disposed");
    return this.#handle;
  }

  dispose(): void {
    if (this.#handle === undefined) return;
    net.unregister(this);
    this.device.addon.releaseProgram(this.#handle);
    this.#handle = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

const net = new FinalizationRegistry<{ device: Device; handle: number }>(({ device, handle }) => {
  device.addon.releaseProgram(handle);
});

/** One place where programs run, in order, on a thread of its own. */
export class Device {
  readonly name: string;
  readonly handle: number;
  readonly addon: NativeAddon;
  readonly info: DeviceInfo;
  /** How compiled programs store values between kernels. */
  readonly activations: "f32" | "bf16";

  /**
   * Use `device(name)`.
   * @throws {DeviceUnavailableError} where there is no such device, with the driver's reason, the paths tried and the fix.
   */
  constructor(name: string, options: DeviceOptions = {}) {
    this.name = name;
    this.addon = addon();
    this.handle = openNative(this.addon, name, options);
    this.info = this.addon.deviceInfo(this.handle);
    const precision = options.precision ?? (process.env.TREFOIL_PRECISION || "bf16");
    this.activations = parseName(name).backend !== "cpu" && precision === "bf16" ? "bf16" : "f32";
  }

  /** Live and peak bytes: buffers, program arenas, constants, staged inputs. */
  memory(): MemoryUse {
    return this.addon.memory(this.handle);
  }

  resetPeak(): void {
    this.addon.resetPeak(this.handle);
  }

  /** Names of the ops that this device's backend has. */
  ops(): string[] {
    return this.addon.deviceOps(this.handle);
  }

  /** Resolves when everything enqueued so far is done. */
  synchronize(): Promise<void> {
    return this.addon.synchronize(this.handle);
  }
}

const opened = new Map<string, Device>();
let chosen: Device | undefined;

/**
 * The device called "cpu", "cuda" or "cuda:1"; opened once. `options` take effect on the first call for that name.
 * @throws {DeviceUnavailableError} where there is no such device, with the driver's reason, the paths tried and the fix.
 */
export function device(name: string, options: DeviceOptions = {}): Device {
  const key = name.includes(":") ? name : `${name}:0`;
  let found = opened.get(key);
  if (!found) {
    found = new Device(key, options);
    opened.set(key, found);
  }
  return found;
}

/** The device that parameters and programs use: set by `setDefaultDevice`, else `TREFOIL_DEVICE`, else "cpu". */
export function defaultDevice(): Device {
  chosen ??= device(process.env.TREFOIL_DEVICE || "cpu");
  return chosen;
}

/** Makes `target` the default; parameters that already live elsewhere stay there. */
export function setDefaultDevice(target: Device): void {
  chosen = target;
}
