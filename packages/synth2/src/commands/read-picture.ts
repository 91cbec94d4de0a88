import { decodeImage } from "../data/index.js";
import { SynthError } from "../errors.js";

/**
 * The picture of a file that a user named, `[size, size, 3]`.
 * @throws SynthError `SYNTH_IMAGE` that names the file
 */
export async function readPicture(path: string, size: number): Promise<Uint8Array> {
  return await decodeImage({ path }, size).catch((cause: unknown) => {
    if (!(cause instanceof SynthError)) throw cause;
    throw new SynthError("SYNTH_IMAGE", `${path}: ${cause.message}; give a PNG, JPEG or WebP picture`, { cause });
  });
}
