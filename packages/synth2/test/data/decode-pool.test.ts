import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { performance } from "node:perf_hooks";
import sharp from "sharp";
import { expect, it } from "vitest";
import { DecodePool, decodeImage } from "../../src/index.js";
import { temporaryFolder } from "../folder.js";

it("decodes in threads of its own: the thread that trains stays free", async () => {
  const folder = await temporaryFolder();
  const paths = await Promise.all(
    [0, 1, 2].map(async (i) => {
      const path = join(folder, `${i}.png`);
      const noise = { type: "gaussian" as const, mean: 128, sigma: 40 };
      const create = { width: 700, height: 700, channels: 3 as const, noise, background: { r: 0, g: 0, b: 0 } };
      await writeFile(path, await sharp({ create }).png().toBuffer());
      return path;
    }),
  );
  await using pool = new DecodePool(2);
  await pool.decode({ path: paths[0]! }, 64);
  const before = performance.eventLoopUtilization();
  const decoded = await Promise.all(Array.from({ length: 8 }, (_, i) => pool.decode({ path: paths[i % 3]! }, 64)));
  const { utilization, active } = performance.eventLoopUtilization(before);
  expect(utilization).toBeLessThan(0.3);
  // Milliseconds in all, of pictures that take tens of them each.
  expect(active).toBeLessThan(100);
  const here = await Promise.all(paths.map((path) => decodeImage({ path }, 64)));
  decoded.forEach((pixels, i) => {
    expect(pixels).toEqual(here[i % 3]);
  });
}, 30_000);
