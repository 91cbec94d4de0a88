/** The raw surface of the addon: numbers and typed arrays, no classes. `packages/core/src/device` is its only user. */

/** Dtype numbers of `TrefoilDtype` in `include/trefoil/backend.h`. */
export const dtypeCodes = { f32: 0, i32: 1, bf16: 2, u8: 3 } as const;

export interface ProgramValue {
  dtype: number;
  shape: number[];
  /**
   * - `input`: given to every run, in the order of `index`.
   * - `state`: the device buffer `buffer`, fixed when the program is made (parameters, optimiser moments, caches).
   * - `constant`: `data`, copied to the device when the program is made.
   * - `temporary`: placed in the device's arena by the memory planner.
   */
  kind: "input" | "state" | "constant" | "temporary";
  index?: number;
  buffer?: number;
  data?: ArrayBufferView;
  /**
   * This value shares the storage of another, of as many bytes: a reshape, or the result of an in-place op. `kind` then
   * does not matter: it is that of the other. Only state and temporaries may be written.
   */
  alias?: number;
}

export interface ProgramInstruction {
  op: string;
  /** Value numbers; -1: the optional input is absent. */
  inputs: number[];
  /** Value numbers; -1: nobody reads this output. */
  outputs: number[];
  attributes: number[];
}

export interface ProgramSpec {
  values: ProgramValue[];
  instructions: ProgramInstruction[];
  /** Values copied out at the end of a run. */
  outputs: number[];
}

export interface DeviceInfo {
  backend: string;
  name: string;
  isa: string;
  threads: number;
}

export interface MemoryUse {
  /** Bytes held now: buffers, arenas, constants, staged inputs. */
  live: number;
  /** Highest `live` since the device was opened or `resetPeak` was called. */
  peak: number;
  /** Buffers made by `createBuffer` and not yet released. */
  buffers: number;
}

/** Flags of `run`, added together. `failNext`: what goes wrong fails the next run, read or `synchronize` of the device, too. */
export const runFlags = { checkFinite: 1, profile: 2, failNext: 4 } as const;

/**
 * Errors thrown or rejected by the addon are `Error`s with `code` (`"TREFOIL_INVALID_ARGUMENT"`, …, the names of `TrefoilCode`)
 * and, where a kernel failed, `op` and `instruction` (its number in the program).
 */
export interface NativeAddon {
  /**
   * Backends: "cpu" is linked in; another name opens `libtrefoil_<name>.so` at `library` (an absolute path).
   * The same options give the same device in the whole process, Workers included: one queue, one set of counters.
   */
  openDevice(options: {
    backend: string;
    index: number;
    threads?: number;
    isa?: string;
    precision?: string;
    library?: string;
  }): number;
  closeDevice(device: number): void;
  deviceInfo(device: number): DeviceInfo;
  /** Names of every op that the device's backend has. */
  deviceOps(device: number): string[];
  memory(device: number): MemoryUse;
  resetPeak(device: number): void;

  /** A zeroed device buffer, counted in `memory().live`. */
  createBuffer(device: number, bytes: number): number;
  /** Copies all of `source` (as many bytes as the buffer has) now; the write takes its place in the order of runs. */
  writeBuffer(buffer: number, source: ArrayBufferView): void;
  /** Fills `target` after every run enqueued so far. */
  readBuffer(buffer: number, target: ArrayBufferView): Promise<void>;
  /** The buffer goes when the last enqueued run that uses it is done, and the last program whose state it is released. */
  releaseBuffer(buffer: number): void;

  /** Checks the spec, finds kernels, plans memory. */
  createProgram(device: number, spec: ProgramSpec): number;
  /** Programs of a device share one arena, as large as the largest that has run. Workspace is part of it. */
  programInfo(program: number): { arenaBytes: number; workspaceBytes: number; temporaryBytes: number };
  /**
   * Enqueues a run and returns; runs of one device happen in order. Inputs: a buffer, or host data that is copied now.
   * Outputs: a buffer that receives a copy, or a typed array that is filled before the promise resolves. Buffers may be
   * larger than the value, arrays may not. Wrong arguments throw; what goes wrong in the run rejects, leaving outputs
   * untouched and state as far as the run came.
   */
  run(
    program: number,
    inputs: (number | ArrayBufferView)[],
    outputs: (number | ArrayBufferView)[],
    flags: number,
  ): Promise<void>;
  /** Nanoseconds per instruction, summed over the runs with `profile` set. */
  programProfile(program: number): Float64Array;
  releaseProgram(program: number): void;
  /** Resolves when everything enqueued so far is done. */
  synchronize(device: number): Promise<void>;

  /** Opens a regular file for reads at any position. A file that shrinks later is an error, and not the SIGBUS of a memory map. */
  mapFile(path: string): { mapping: number; bytes: number };
  /** Copies bytes `[offset, offset + target.byteLength)` of the file; a range outside it throws. */
  readMapping(mapping: number, offset: number, target: ArrayBufferView): void;
  unmapFile(mapping: number): void;

  /**
   * Weighted mean of stored weights (`"F32"`, `"F16"` or `"BF16"` each), written to `target` where there is one, on a thread of
   * libuv's pool. With descriptors of open files, and positions in them, the sources are first filled from there, a stretch at a
   * time. The arrays are not copied: leave them alone, and the files open, until the promise settles.
   * Resolves to `[1 if a finite mean does not fit into targetDtype, ‖mean‖², ‖source_i - mean‖², …]`.
   */
  weightedMean(
    sources: ArrayBufferView[],
    dtypes: string[],
    weights: number[],
    target?: ArrayBufferView | undefined,
    targetDtype?: string | undefined,
    descriptors?: number[] | undefined,
    positions?: number[] | undefined,
  ): Promise<Float64Array>;
  /** Writes pieces to open files; resolves to the hash of each, a number of 53 bits. As `weightedMean`, without a copy. */
  writeStored(pieces: ArrayBufferView[], descriptors: number[], positions: number[]): Promise<Float64Array>;
  /** Resolves to the hashes of so many bytes each of open files. */
  storedChecksums(lengths: number[], descriptors: number[], positions: number[]): Promise<Float64Array>;
}
