import { parentPort } from "node:worker_threads";
import sharp from "sharp";
import { decodeImage, type ImageLocation } from "./decode.js";

/** One picture to decode, and what comes back: its pixels or why there are none. */
export interface DecodeRequest {
  id: number;
  location: ImageLocation;
  size: number;
}

export type DecodeReply = { id: number; pixels: Uint8Array } | { id: number; reason: string };

// The pool has the threads; libvips adds none, so that the training step keeps its cores.
sharp.concurrency(1);
sharp.cache(false);

parentPort?.on("message", async ({ id, location, size }: DecodeRequest) => {
  let reply: DecodeReply;
  try {
    reply = { id, pixels: await decodeImage(location, size) };
  } catch (error) {
    reply = { id, reason: error instanceof Error ? error.message : String(error) };
  }
  parentPort?.postMessage(reply, "pixels" in reply ? [reply.pixels.buffer as ArrayBuffer] : []);
});
