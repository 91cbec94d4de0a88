import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Case, LlamaTask, SgemmTask, Side, Timing, TorchTask } from "../measure/side.js";
import type { PeerRecord } from "../results/schema.js";
import { LinePeer, PeerError } from "./line-peer.js";

const blasLibraries = ["openblas", "blis", "onednn"] as const;
type BlasLibrary = (typeof blasLibraries)[number];

export interface PeerOptions {
  /** Path of a program built from `native/`. */
  programs: (name: string) => string;
  /** A Python that has torch and transformers. */
  python?: string | undefined;
  /** Also measure torch.compile. */
  torchCompile: boolean;
  /** A folder where node-llama-cpp is installed. */
  llama?: string | undefined;
  /** Library files to open instead of those that the system's loader finds by name. */
  libraries: Partial<Record<BlasLibrary, string | undefined>>;
}

type Open = { process: LinePeer } & ({ kind: "sgemm" | "llama" } | { kind: "torch"; compile: boolean });

/** Everyone we are measured beside: found, not required. */
export class Peers implements Disposable {
  /** Who was looked for, and what came of it. */
  readonly records: PeerRecord[] = [];
  readonly #open: Open[] = [];

  static async find(options: PeerOptions): Promise<Peers> {
    const peers = new Peers();
    for (const name of blasLibraries) await peers.#addBlas(name, options);
    await peers.#addTorch("pytorch", false, options.python);
    if (options.torchCompile) await peers.#addTorch("torch.compile", true, options.python);
    else peers.#miss("torch.compile", "ask for it with --torch-compile; every case is compiled first");
    await peers.#addLlama(options.llama);
    return peers;
  }

  async #addBlas(name: BlasLibrary, { programs, libraries }: PeerOptions): Promise<void> {
    const library = libraries[name];
    const process = new LinePeer(name, programs("blas_peer"), library ? [name, library] : [name]);
    await this.#greet(process, () => this.#open.push({ kind: "sgemm", process }));
  }

  async #addTorch(name: string, compile: boolean, python: string | undefined): Promise<void> {
    if (!python) return this.#miss(name, "name a Python that has torch and transformers with --python");
    const script = fileURLToPath(new URL("../../peers/torch_peer.py", import.meta.url));
    // One compiling process: a pool of them would outlive the measurement.
    const process = new LinePeer(name, python, [script], { TORCHINDUCTOR_COMPILE_THREADS: "1", HF_HUB_OFFLINE: "1" });
    await this.#greet(process, () => this.#open.push({ kind: "torch", compile, process }));
  }

  async #addLlama(folder: string | undefined): Promise<void> {
    const name = "llama.cpp";
    if (!folder) return this.#miss(name, "name a folder where node-llama-cpp is installed with --llama");
    const script = fileURLToPath(new URL("../../peers/llama_peer.mjs", import.meta.url));
    const peer = new LinePeer(name, process.execPath, [script, resolve(folder)]);
    await this.#greet(peer, () => this.#open.push({ kind: "llama", process: peer }));
  }

  #miss(name: string, reason: string): void {
    this.records.push({ name, status: "missing", reason });
  }

  async #greet(process: LinePeer, keep: () => void): Promise<void> {
    const { name } = process;
    try {
      const { version, missing } = await process.greeting<{ version?: string; missing?: string }>();
      if (missing !== undefined) {
        process[Symbol.dispose]();
        return this.#miss(name, missing);
      }
      this.records.push({ name, status: "present", version: version ?? "unknown" });
      keep();
    } catch (error) {
      process[Symbol.dispose]();
      this.#miss(name, (error as Error).message);
    }
  }

  /** The peers that can do the work of `each`, ready to run; `failed` is told of those that could not prepare it. */
  async sides(each: Case, threads: number, failed: (peer: string, reason: string) => void): Promise<Side[]> {
    const sides: Side[] = [];
    for (const peer of this.#open) {
      try {
        if (peer.kind === "sgemm" && each.sgemm) sides.push(await sgemmSide(peer.process, each.sgemm, threads));
        if (peer.kind === "llama" && each.llama) sides.push(await llamaSide(peer.process, each.llama, threads));
        if (peer.kind === "torch" && each.torch)
          sides.push(await torchSide(peer.process, each.torch, threads, peer.compile));
      } catch (error) {
        if (!(error instanceof PeerError)) throw error;
        failed(peer.process.name, error.message);
      }
    }
    return sides;
  }

  [Symbol.dispose](): void {
    for (const { process } of this.#open) process[Symbol.dispose]();
  }
}

/** Products of values in [-0.5, 0.5): beyond this a result is wrong, not rounded. */
const wrongProduct = 1e-3;

async function sgemmSide(process: LinePeer, task: SgemmTask, threads: number): Promise<Side> {
  const { m, k, n, transposeA, transposeB } = task;
  const define = `define ${m} ${k} ${n} ${transposeA ? 1 : 0} ${transposeB ? 1 : 0} ${threads}`;
  const { maximumError } = await process.request<{ maximumError: number }>(define);
  if (!(maximumError < wrongProduct)) throw new PeerError(process.name, `the product is wrong by ${maximumError}`);
  return { name: process.name, run: (repetitions) => process.request<{ seconds: number }>(`run ${repetitions}`) };
}

async function llamaSide(process: LinePeer, task: LlamaTask, threads: number): Promise<Side> {
  const { file, prompts, newTokens, expected, agreement } = task;
  const define = JSON.stringify({ define: { file, prompts, newTokens }, threads });
  const { tokens } = await process.request<{ tokens: number[][] }>(define);
  const same = expected.filter((row, i) =>
    row.slice(0, agreement.tokens).every((token, at) => token === tokens[i]?.[at]),
  );
  if (same.length < agreement.rows)
    throw new PeerError(
      process.name,
      `${same.length} of ${expected.length} rows begin with our tokens: not the same model`,
    );
  return {
    name: process.name,
    run: (repetitions) => process.request<Timing>(JSON.stringify({ run: repetitions })),
  };
}

async function torchSide(process: LinePeer, task: TorchTask, threads: number, compile: boolean): Promise<Side> {
  await process.request<object>(JSON.stringify({ define: task, threads, compile }));
  return {
    name: process.name,
    run: (repetitions) => process.request<Timing>(JSON.stringify({ run: repetitions })),
  };
}
