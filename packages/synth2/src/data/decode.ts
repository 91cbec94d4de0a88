import { open } from "node:fs/promises";
import sharp from "sharp";
import { SynthError } from "../errors.js";

export interface ImageLocation {
  path: string;
  /** Inside a tar: its bytes. */
  offset?: number;
  size?: number;
}

/** Files larger than this, and pictures of more pixels, are refused before anything is decoded. */
const [mostBytes, mostPixels] = [64 * 2 ** 20, 2 ** 26];

/** PNG, JPEG and WebP by their first bytes: whatever else the decoder might open is refused. */
function isKnownFormat(bytes: Buffer): boolean {
  const starts = (...prefix: number[]) => prefix.every((byte, i) => bytes[i] === byte);
  if (starts(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a) || starts(0xff, 0xd8, 0xff)) return true;
  return bytes.toString("latin1", 0, 4) === "RIFF" && bytes.toString("latin1", 8, 12) === "WEBP";
}

async function readBytes({ path, offset = 0, size }: ImageLocation): Promise<Buffer> {
  const file = await open(path).catch((cause: unknown) => {
    throw new SynthError("SYNTH_IMAGE", "file cannot be opened", { cause });
  });
  try {
    const found = await file.stat();
    if (!found.isFile()) throw new SynthError("SYNTH_IMAGE", "not a file");
    const length = size ?? found.size;
    if (length === 0) throw new SynthError("SYNTH_IMAGE", "empty file");
    if (length > mostBytes) throw new SynthError("SYNTH_IMAGE", `file larger than ${mostBytes / 2 ** 20} MiB`);
    const bytes = Buffer.alloc(length);
    await file.read(bytes, 0, length, offset);
    return bytes;
  } finally {
    await file.close();
  }
}

/**
 * Decodes a PNG, JPEG or WebP, whatever its name says, to `[size, size, 3]` sRGB: turned upright, the middle square, scaled; alpha on white;
 * CMYK and grey converted.
 * @throws SynthError `SYNTH_IMAGE` when it is none of these, broken, larger than 64 MiB or of more than 2^26 pixels
 */
export async function decodeImage(location: ImageLocation, size: number): Promise<Uint8Array> {
  const bytes = await readBytes(location);
  if (!isKnownFormat(bytes)) throw new SynthError("SYNTH_IMAGE", "not a PNG, JPEG or WebP image");
  const image = sharp(bytes, { limitInputPixels: mostPixels, failOn: "error", pages: 1 });
  try {
    const { width, height } = await image.metadata();
    if (width * height > mostPixels) throw new SynthError("SYNTH_IMAGE", `more than ${mostPixels} pixels`);
    const { data, info } = await image
      .rotate()
      .resize(size, size, { fit: "cover" })
      .flatten({ background: "#ffffff" })
      .toColourspace("srgb")
      .raw({ depth: "uchar" })
      .toBuffer({ resolveWithObject: true });
    if (info.channels === 3) return new Uint8Array(data);
    const pixels = new Uint8Array(size * size * 3);
    for (let i = 0; i < size * size; i++) pixels.fill(data[i * info.channels]!, 3 * i, 3 * i + 3);
    return pixels;
  } catch (cause) {
    if (cause instanceof SynthError) throw cause;
    const tooLarge = cause instanceof Error && /pixel limit/.test(cause.message);
    throw new SynthError("SYNTH_IMAGE", tooLarge ? `more than ${mostPixels} pixels` : "broken image", { cause });
  }
}

/** Writes a picture as PNG. @param pixels `[height, width, 3]` */
export async function encodePng(pixels: Uint8Array, width: number, height: number): Promise<Buffer> {
  return await sharp(pixels, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}
