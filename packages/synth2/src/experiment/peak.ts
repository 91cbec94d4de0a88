import { fork } from "node:child_process";
import type { PipelineSettings } from "../pipeline/index.js";
import type { Way } from "./efficiency.js";

export interface PeakRequest {
  /** Of stages that are trained. */
  folder: string;
  seed: number;
  pipeline: PipelineSettings;
  way: Way;
}

/** Resident memory at its peak of a process of one thread that trains on synthetic pictures in one way, bytes. */
export async function measurePeak(request: PeakRequest, signal?: AbortSignal): Promise<number> {
  const child = fork(new URL("./peak-worker.js", import.meta.url), {
    env: { ...process.env, TREFOIL_THREADS: "1" },
  });
  const stop = () => child.kill();
  signal?.addEventListener("abort", stop);
  let peak: number | undefined;
  child.on("message", (bytes: number) => {
    peak = bytes;
  });
  child.send(request);
  await new Promise((resolve) => child.on("close", resolve));
  signal?.removeEventListener("abort", stop);
  signal?.throwIfAborted();
  if (peak === undefined)
    throw new Error(`the process that measures ${JSON.stringify(request.way)} ended without a result`);
  return peak;
}
