import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { expandBraces, openDataset, PreparedDataset, prepareImages, saveDataset } from "../../src/data/index.js";
import { WorldDataset } from "../../src/world/index.js";
import { hugePng } from "./huge.js";
import { tar, tarMember } from "./tars.js";

const root = mkdtempSync(join(tmpdir(), "synth2-data-"));
afterAll(() => rmSync(root, { recursive: true }));
const at = (...parts: string[]) => join(root, ...parts);
const plain = (colour: { r: number; g: number; b: number }) =>
  sharp({ create: { width: 20, height: 10, channels: 3, background: colour } });

let [png, jpeg, webp, cmyk, grey]: Buffer[] = [];
beforeAll(async () => {
  png = await plain({ r: 200, g: 10, b: 30 }).png().toBuffer();
  jpeg = await plain({ r: 10, g: 200, b: 30 }).jpeg({ quality: 100 }).toBuffer();
  webp = await plain({ r: 10, g: 20, b: 220 }).webp({ lossless: true }).toBuffer();
  cmyk = await plain({ r: 250, g: 250, b: 250 }).toColourspace("cmyk").jpeg().toBuffer();
  grey = await plain({ r: 90, g: 90, b: 90 }).toColourspace("b-w").png().toBuffer();
});

let made = 0;
async function prepare(source: string, more: { split?: string; images?: string } = {}) {
  const output = at(`prepared-${made++}`);
  const { samples, problems } = await prepareImages({ source, output, size: 8, threads: 1, overwrite: false, ...more });
  return { samples, problems, output, dataset: await PreparedDataset.open(output) };
}

describe("sources", () => {
  it("read WebDataset shards by brace pattern, decode every format, list what they leave out", async () => {
    writeFileSync(
      at("s-00.tar"),
      tar(
        tarMember("d/a.png", png!),
        tarMember("d/a.txt", "a red field\na dark red field"),
        tarMember("d/b.jpg", jpeg!),
        tarMember("d/b.json", JSON.stringify({ annotations: JSON.stringify({ id: 1, caption: "a green field" }) })),
        tarMember("../../escape.png", png!),
        tarMember("/etc/escape.txt", "x"),
      ),
    );
    writeFileSync(at("s-01.tar"), tar(tarMember("c.webp", webp!), tarMember("c.txt", "a blue  field\n")));
    writeFileSync(at("s-02.tar"), Buffer.alloc(0));
    const { samples, problems, dataset } = await prepare(at("s-{00..03}.tar"));
    await using _ = dataset;
    expect(samples).toBe(3);
    expect((await dataset.get(0)).captions).toEqual(["a red field", "a dark red field"]);
    expect((await dataset.get(1)).captions).toEqual(["a green field"]);
    expect(await dataset.get(2)).toEqual({
      id: "c",
      captions: ["a blue field"],
      image: Uint8Array.from({ length: 192 }, (_, i) => [10, 20, 220][i % 3]!),
    });
    expect(Object.fromEntries(problems.counts)).toEqual({
      "member's name leaves the tar": 2,
      "shard is empty": 1,
      "shard cannot be opened": 1,
    });
    expect(existsSync(at("..", "escape.png"))).toBe(false);
  });

  it("read COCO captions, Karpathy's splits, JSONL and folders", async () => {
    writeFileSync(at("x.png"), png!);
    writeFileSync(at("x.txt"), "beside");
    writeFileSync(
      at("coco.json"),
      JSON.stringify({
        images: [
          { id: 7, file_name: "x.png" },
          { id: 8, file_name: "../x.png" },
        ],
        annotations: [
          { image_id: 7, caption: "one" },
          { image_id: 7, caption: "two" },
        ],
      }),
    );
    const sentences = [{ raw: "raw" }];
    writeFileSync(
      at("karpathy.json"),
      JSON.stringify({
        images: [
          { filename: "x.png", cocoid: 1, split: "test", sentences },
          { filename: "x.png", cocoid: 2, split: "train", sentences },
        ],
      }),
    );
    writeFileSync(
      at("rows.jsonl"),
      `{"image":"x.png","caption":"row"}\nnot json\n{"image":"/etc/passwd","caption":"no"}\n`,
    );
    const captions = async (source: string, more = {}) => {
      const { dataset, problems } = await prepare(source, more);
      await using opened = dataset;
      return [(await opened.get(0)).captions, opened.length, problems.total];
    };
    expect(await captions(at("coco.json"))).toEqual([["one", "two"], 1, 1]);
    expect(await captions(at("karpathy.json"), { split: "test" })).toEqual([["raw"], 1, 0]);
    expect(await captions(at("karpathy.json"), { split: "train,test" })).toEqual([["raw"], 2, 0]);
    expect(await captions(at("rows.jsonl"))).toEqual([["row"], 1, 2]);
    expect(await captions(root)).toEqual([["beside"], 1, 0]);
  });
});

describe("bad input", () => {
  it("is left out, counted and listed; the rest is kept", async () => {
    const pair = (name: string, image: Buffer | string, caption = "a caption") => [
      tarMember(`${name}.png`, image),
      tarMember(`${name}.txt`, caption),
    ];
    writeFileSync(
      at("bad.tar"),
      tar(
        ...pair("cmyk", cmyk!),
        ...pair("grey", grey!),
        ...pair("lie", "GIF89a is not what it says"),
        ...pair("svg", "<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ...pair("empty", ""),
        ...pair("huge", hugePng(30_000, 30_000)),
        ...pair("zero", hugePng(0, 10)),
        ...pair("cut", png!.subarray(0, 60)),
        ...pair("long", png!, "a".repeat(10_000_000)),
        ...pair("blank", png!, " \n "),
      ),
    );
    const { samples, problems, dataset, output } = await prepare(at("bad.tar"));
    await using opened = dataset;
    expect(samples).toBe(2);
    const [first, second] = [await opened.get(0), await opened.get(1)];
    expect(Math.min(...first.image)).toBeGreaterThan(235);
    expect([...new Set(second.image)]).toEqual([90]);
    expect(problems.counts.get("not a PNG, JPEG or WebP image")).toBe(2);
    expect(problems.counts.get("empty file")).toBe(1);
    expect(problems.counts.get(`more than ${2 ** 26} pixels`)).toBe(1);
    expect(problems.counts.get("broken image")).toBe(2);
    expect(problems.counts.get("caption file larger than 1 MiB")).toBe(1);
    expect(readFileSync(join(output, "skipped.jsonl"), "utf8")).toContain("bad.tar: huge");
  });

  it("in the lists of COCO and JSONL is left out and counted too", async () => {
    writeFileSync(at("y.png"), png!);
    const images = [{ id: 1, file_name: "y.png" }, null, { id: {}, file_name: "y.png" }];
    const annotations = [null, "text", { image_id: 1, caption: null }, { image_id: 1, caption: "kept" }];
    writeFileSync(at("mixed.json"), JSON.stringify({ images, annotations }));
    const coco = await prepare(at("mixed.json"));
    await using first = coco.dataset;
    expect([first.length, (await first.get(0)).captions]).toEqual([1, ["kept"]]);
    expect(Object.fromEntries(coco.problems.counts)).toEqual({
      "annotation is not a JSON object": 2,
      "image is not a JSON object": 1,
      "caption is not text": 1,
      "no usable caption": 1,
    });
    writeFileSync(at("mixed.jsonl"), `{"image":"y.png"}\nnull\n{"image":"y.png","id":{},"text":"kept"}\n`);
    const rows = await prepare(at("mixed.jsonl"));
    await using second = rows.dataset;
    expect([second.length, (await second.get(0)).id]).toEqual([1, "3"]);
    expect(Object.fromEntries(rows.problems.counts)).toEqual({ "no caption": 1, "line is not a JSON object": 1 });
  });

  it("does not lose a long name of a tar whose link names and global records stand between", async () => {
    const name = `d/${"n".repeat(150)}`;
    const long = (ending: string, content: Buffer | string) => [
      tarMember("././@LongLink", `${name}${ending}\0`, "L"),
      tarMember("././@LongLink", "target\0", "K"),
      tarMember("pax_global_header", "16 comment=here\n", "g"),
      tarMember(`${name}${ending}`.slice(0, 100), content),
    ];
    writeFileSync(at("names.tar"), tar(...long(".png", png!), ...long(".txt", "kept")));
    const { samples, dataset } = await prepare(at("names.tar"));
    await using opened = dataset;
    expect(samples).toBe(1);
    expect((await opened.get(0)).id).toBe(name);
  });

  it("that leaves nothing is an error, and nothing half-made stays", async () => {
    writeFileSync(at("none.tar"), tar());
    await expect(prepare(at("none.tar"))).rejects.toMatchObject({ code: "SYNTH_DATA" });
    expect(existsSync(at(`prepared-${made - 1}`))).toBe(false);
    await expect(prepare(at("nowhere"))).rejects.toMatchObject({ code: "SYNTH_DATA" });
  });

  it("a tar that ends inside a member keeps the samples before it; one that is no tar says so", async () => {
    const whole = tar(tarMember("a.png", png!), tarMember("a.txt", "kept"), tarMember("b.png", png!));
    writeFileSync(at("cut.tar"), whole.subarray(0, 2048 + 512 + 20));
    writeFileSync(at("no.tar"), Buffer.alloc(2048, 7));
    const { samples, problems, dataset } = await prepare(at("{cut,no}.tar"));
    await dataset[Symbol.asyncDispose]();
    expect(samples).toBe(1);
    expect([...problems.counts.keys()].join()).toMatch(/ends inside "b.png".*broken header/s);
  });

  it("a brace pattern that explodes is refused", () => {
    expect(expandBraces("a-{08..10}.tar")).toEqual(["a-08.tar", "a-09.tar", "a-10.tar"]);
    expect(expandBraces("{a,b}{1..2}")).toEqual(["a1", "a2", "b1", "b2"]);
    expect(() => expandBraces("{0..999999999}.tar")).toThrow(/100000/);
    expect(() => expandBraces("{5..1}.tar")).toThrow(/range/);
  });
});

describe("prepared folders", () => {
  it("give back the world as it was drawn", async () => {
    const world = new WorldDataset({ split: "paired", length: 5, seed: 3 });
    await saveDataset(world, { output: at("world"), source: "world", overwrite: false });
    await using opened = await openDataset(at("world"));
    for (let i = 0; i < 5; i++) expect(await opened.dataset.get(i)).toEqual(await world.get(i));
    await using same = await openDataset("world:paired:5:3");
    expect(await same.dataset.get(4)).toEqual(await world.get(4));
    await expect(openDataset("world:nowhere:5")).rejects.toMatchObject({ code: "SYNTH_OPTIONS" });
  });

  it("that were tampered with are refused", async () => {
    const world = new WorldDataset({ split: "paired", length: 2 });
    await saveDataset(world, { output: at("short"), source: "world", overwrite: false });
    writeFileSync(at("short", "images.bin"), "short");
    await expect(PreparedDataset.open(at("short"))).rejects.toMatchObject({ code: "SYNTH_DATA" });
    const file = at("short", "dataset.json");
    writeFileSync(file, JSON.stringify({ ...JSON.parse(readFileSync(file, "utf8")), version: 2 }));
    await expect(PreparedDataset.open(at("short"))).rejects.toMatchObject({
      code: "SYNTH_DATA",
      message: expect.stringMatching(/short is not a prepared dataset \(.*\): version: .*1$/),
    });
  });
});
