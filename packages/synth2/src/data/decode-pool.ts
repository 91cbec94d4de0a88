import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import { SynthError } from "../errors.js";
import type { ImageLocation } from "./decode.js";
import type { DecodeReply, DecodeRequest } from "./decode-worker.js";

// By the package's own name: sources run from src in tests, where no compiled worker lies beside them.
const workerFile = createRequire(import.meta.url).resolve("@trefoil/synth2/decode-worker");

interface Waiting {
  resolve: (pixels: Uint8Array) => void;
  reject: (error: unknown) => void;
}

interface Slot {
  worker: Worker;
  waiting: Map<number, Waiting>;
}

/** Worker threads that decode images. */
export class DecodePool implements AsyncDisposable {
  readonly #slots: Slot[];
  #next = 0;

  constructor(threads = 1) {
    this.#slots = Array.from({ length: threads }, () => startWorker());
  }

  /**
   * @returns `[size, size, 3]`
   * @throws SynthError `SYNTH_IMAGE`, as `decodeImage`
   */
  async decode(location: ImageLocation, size: number): Promise<Uint8Array> {
    const id = this.#next++;
    const slot = this.#slots.reduce((least, each) => (each.waiting.size < least.waiting.size ? each : least));
    return await new Promise((resolve, reject) => {
      slot.waiting.set(id, { resolve, reject });
      slot.worker.postMessage({ id, location, size } satisfies DecodeRequest);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#slots.map(({ worker }) => worker.terminate()));
  }
}

function startWorker(): Slot {
  const worker = new Worker(workerFile);
  const waiting = new Map<number, Waiting>();
  worker.on("message", (reply: DecodeReply) => {
    const { resolve, reject } = waiting.get(reply.id)!;
    waiting.delete(reply.id);
    if ("pixels" in reply) resolve(reply.pixels);
    else reject(new SynthError("SYNTH_IMAGE", reply.reason));
  });
  worker.on("error", (error) => {
    for (const { reject } of waiting.values()) reject(error);
    waiting.clear();
  });
  return { worker, waiting };
}
