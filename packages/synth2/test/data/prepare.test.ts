import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import sharp from "sharp";
import { describe, expect, it } from "vitest";
import { decodeImage, expandBraces, openDataset, prepareImages, saveDataset, WorldDataset } from "../../src/index.js";
import { temporaryFolder } from "../folder.js";
import { hugePng } from "./huge.js";
import { tar, tarMember } from "./tars.js";

const flat = (width: number, height: number, [r, g, b]: readonly [number, number, number]) =>
  sharp({ create: { width, height, channels: 3, background: { r, g, b } } });

const options = { size: 8, threads: 1, overwrite: false };

describe("pictures", () => {
  it("are read as what their bytes say: PNG, JPEG (CMYK too), WebP; the middle square, alpha on white", async () => {
    const folder = await temporaryFolder();
    const path = join(folder, "picture.dat");
    const colour = [200, 100, 50] as const;
    const within = (pixels: Uint8Array, expected: readonly number[], error: number) => {
      for (const [i, value] of pixels.entries()) expect(Math.abs(value - expected[i % 3]!)).toBeLessThanOrEqual(error);
    };
    await writeFile(path, await flat(40, 30, colour).png().toBuffer());
    within(await decodeImage({ path }, 4), colour, 0);
    await writeFile(path, await flat(40, 30, colour).webp({ lossless: true }).toBuffer());
    within(await decodeImage({ path }, 4), colour, 1);
    await writeFile(path, await flat(40, 30, colour).jpeg({ quality: 100 }).toBuffer());
    within(await decodeImage({ path }, 4), colour, 3);
    await writeFile(path, await flat(40, 30, [128, 128, 128]).toColourspace("cmyk").jpeg({ quality: 100 }).toBuffer());
    const cmyk = await decodeImage({ path }, 4);
    expect(cmyk).toHaveLength(48);
    // Through ink and back, whatever the profile: still a middle grey.
    for (const value of cmyk) expect(value > 90 && value < 170).toBe(true);
    const clear = sharp({ create: { width: 9, height: 9, channels: 4, background: { r: 0, g: 0, b: 0, alpha: 0 } } });
    await writeFile(path, await clear.png().toBuffer());
    within(await decodeImage({ path }, 4), [255, 255, 255], 0);
  });

  it.each([
    ["nothing", Buffer.alloc(0), /empty file/],
    ["text under a picture's name", Buffer.from("<svg/>"), /not a PNG, JPEG or WebP/],
    ["a PNG that ends early", undefined, /broken image/],
    ["a PNG of 30,000 × 30,000", hugePng(30_000, 30_000), /more than \d+ pixels/],
  ])("that are %s are refused by name", async (_, bytes, reason) => {
    const path = join(await temporaryFolder(), "picture.png");
    await writeFile(path, bytes ?? (await flat(64, 64, [1, 2, 3]).png().toBuffer()).subarray(0, 90));
    await expect(decodeImage({ path }, 8)).rejects.toMatchObject({
      code: "SYNTH_IMAGE",
      message: expect.stringMatching(reason),
    });
  });
});

describe("prepare", () => {
  it("reads COCO captions and Karpathy's splits, and lists what it leaves out", async () => {
    const folder = await temporaryFolder();
    await mkdir(join(folder, "images"));
    await writeFile(join(folder, "images/a.png"), await flat(20, 20, [255, 0, 0]).png().toBuffer());
    await writeFile(join(folder, "images/b.png"), "no picture");
    const coco = {
      images: [
        { id: 1, file_name: "a.png" },
        { id: 2, file_name: "b.png" },
        { id: 3, file_name: "../outside.png" },
      ],
      annotations: [
        { image_id: 1, caption: "  a red\nsquare " },
        { image_id: 1, caption: "x".repeat(10_000_000) },
        { image_id: 2, caption: "broken" },
        { image_id: 3, caption: "outside" },
      ],
    };
    await writeFile(join(folder, "coco.json"), JSON.stringify(coco));
    const output = join(folder, "prepared");
    const images = join(folder, "images");
    const { samples, problems } = await prepareImages({
      ...options,
      source: join(folder, "coco.json"),
      images,
      output,
    });
    expect(samples).toBe(1);
    expect(problems.total).toBe(3);
    expect(await readFile(join(output, "skipped.jsonl"), "utf8")).toMatch(
      /longer than 2000.*\n.*inside the folder|not a PNG/s,
    );
    await using opened = await openDataset(output);
    expect(await opened.dataset.get(0)).toEqual({
      id: "1",
      captions: ["a red square"],
      image: Uint8Array.from({ length: 192 }, (_, i) => (i % 3 === 0 ? 255 : 0)),
    });
    const karpathy = {
      images: [
        { filename: "a.png", split: "train", sentences: [{ raw: "kept" }] },
        { filename: "a.png", split: "test", sentences: [{ raw: "left" }] },
      ],
    };
    await writeFile(join(folder, "karpathy.json"), JSON.stringify(karpathy));
    const source = join(folder, "karpathy.json");
    const made = await prepareImages({ ...options, source, images, split: "train", output: join(folder, "train") });
    expect(made.samples).toBe(1);
  });

  it("reads files that begin with a byte order mark and have the line ends of Windows", async () => {
    const folder = await temporaryFolder();
    await writeFile(join(folder, "a.png"), await flat(20, 20, [255, 0, 0]).png().toBuffer());
    const row = { file_name: "a.png", caption: "red" };
    await writeFile(join(folder, "rows.jsonl"), `\ufeff${JSON.stringify(row)}\r\n\r\n${JSON.stringify(row)}\r\n`);
    const coco = { images: [{ id: 1, file_name: "a.png" }], annotations: [{ image_id: 1, caption: "red" }] };
    await writeFile(join(folder, "coco.json"), `\ufeff${JSON.stringify(coco)}`);
    for (const [name, samples] of [["rows.jsonl", 2] as const, ["coco.json", 1] as const]) {
      const made = await prepareImages({
        ...options,
        source: join(folder, name),
        output: join(folder, `${name}-made`),
      });
      expect([made.samples, made.problems.total]).toEqual([samples, 0]);
    }
  });

  it("reads WebDataset shards without writing them anywhere", async () => {
    const folder = await temporaryFolder();
    const picture = await flat(10, 10, [0, 0, 255]).jpeg().toBuffer();
    await writeFile(
      join(folder, "shard-0.tar"),
      tar(
        tarMember("one.jpg", picture),
        tarMember("one.txt", "a blue square\nanother caption\n"),
        tarMember("../../evil.jpg", picture),
        tarMember("two.txt", "no picture"),
        tarMember("three.jpg", picture),
        tarMember("three.json", '{"caption": "from JSON"}'),
      ),
    );
    await writeFile(join(folder, "shard-1.tar"), Buffer.alloc(1024));
    await writeFile(join(folder, "shard-2.tar"), tar(tarMember("cut.jpg", picture)).subarray(0, 700));
    const source = join(folder, "shard-{0..3}.tar");
    const output = join(folder, "prepared");
    const { samples, problems } = await prepareImages({ ...options, source, output });
    expect(samples).toBe(2);
    expect([...problems.counts.keys()].sort()).toEqual([
      expect.stringMatching(/ends inside "cut.jpg"/),
      "member's name leaves the tar",
      "no image",
      "shard cannot be opened",
      "shard is empty",
    ]);
    await using opened = await openDataset(output);
    expect((await opened.dataset.get(0)).captions).toEqual(["a blue square", "another caption"]);
    expect((await opened.dataset.get(1)).captions).toEqual(["from JSON"]);
  });

  it("gives a world back as it was saved, and says when there is nothing to read", async () => {
    const folder = await temporaryFolder();
    const world = new WorldDataset({ split: "balanced", length: 3 });
    await saveDataset(world, { output: join(folder, "world"), source: "world", overwrite: false });
    await using opened = await openDataset(join(folder, "world"));
    expect(await opened.dataset.get(2)).toEqual(await world.get(2));
    await mkdir(join(folder, "empty"));
    const nothing = prepareImages({ ...options, source: join(folder, "empty"), output: join(folder, "none") });
    await expect(nothing).rejects.toMatchObject({ code: "SYNTH_DATA" });
    await expect(openDataset("world:nowhere:3")).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
    expect(() => expandBraces("{0..1000000}.tar")).toThrow(/more than/);
  });
});
