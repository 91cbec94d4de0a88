import { describe, expect, it } from "vitest";
import {
  attributeAccuracy,
  Choices,
  checkMeaning,
  classesOfWorld,
  describe as describeScene,
  drawPicture,
  drawScene,
  isHeldOut,
  isNovel,
  judgePicture,
  parseCaption,
  SPLITS,
  WorldDataset,
  worldClasses,
} from "../../src/world/index.js";

const scenes = (split: (typeof SPLITS)[number], count: number) =>
  Array.from({ length: count }, (_, i) => drawScene(split, 7, i));

describe("scenes", () => {
  it("hold combinations out of the paired set: never there, always in novel ones, a quarter of all", () => {
    expect(worldClasses.filter((name) => isHeldOut(...(name.split(" ") as [string, string])))).toHaveLength(12);
    expect(scenes("paired", 2000).filter(isNovel)).toHaveLength(0);
    expect(scenes("test", 500).filter(isNovel)).toHaveLength(0);
    expect(scenes("novel", 500).filter(isNovel)).toHaveLength(500);
    const balanced = scenes("balanced", 1000).filter(isNovel).length;
    expect(balanced).toBeGreaterThan(250);
  });

  it("show every colour and every shape in the paired set, the first far more often than the last", () => {
    const objects = scenes("paired", 3000).flatMap(({ objects: each }) => each);
    const count = (values: string[]) => (name: string) => values.filter((value) => value === name).length;
    const colours = objects.map(({ colour }) => colour);
    expect(new Set(colours).size).toBe(8);
    expect(new Set(objects.map(({ shape }) => shape)).size).toBe(6);
    expect(count(colours)("red")).toBeGreaterThan(4 * count(colours)("white"));
  });

  it("stand on cells of their own", () => {
    for (const { objects } of scenes("balanced", 500)) {
      expect(new Set(objects.map(({ row, column }) => 3 * row + column)).size).toBe(objects.length);
    }
  });
});

describe("the small world", () => {
  it("holds one or two objects of four shapes in six colours, with its own share held out", () => {
    const small = SPLITS.flatMap((split) => Array.from({ length: 500 }, (_, i) => drawScene(split, 7, i, "small")));
    const objects = small.flatMap((scene) => scene.objects);
    expect(new Set(small.map((scene) => scene.objects.length))).toEqual(new Set([1, 2]));
    const looks = new Set(objects.map(({ colour, shape }) => `${colour} ${shape}`));
    expect([...looks].sort()).toEqual([...classesOfWorld("small")].sort());
    const heldOut = classesOfWorld("small").filter((name) => isHeldOut(...(name.split(" ") as [string, string])));
    expect(heldOut).toHaveLength(5);
    expect(small.slice(0, 500).some(isNovel)).toBe(false);
  });

  it("draws the same picture for the same scene, which the judge reads", async () => {
    const data = new WorldDataset({ world: "small", split: "balanced", length: 300, size: 54 });
    const pairs = [];
    for (let i = 0; i < data.length; i++) {
      const { image, attributes, captions } = await data.get(i);
      expect(Buffer.compare(image, drawPicture(attributes!, 54).pixels)).toBe(0);
      pairs.push({ caption: captions[0]!, scene: judgePicture({ width: 54, height: 54, pixels: image }) });
    }
    expect(attributeAccuracy(pairs).exact).toBe(1);
  });
});

describe("captions", () => {
  it("of the world are true and grammatical, whatever is left out", () => {
    const pairs = SPLITS.flatMap((split) =>
      scenes(split, 400).map((scene, i) => ({ scene, caption: describeScene(scene, new Choices(3, i)) })),
    );
    const { grammatical, accuracy } = attributeAccuracy(pairs);
    expect(grammatical).toBe(1);
    expect(Object.values(accuracy)).toEqual([1, 1, 1, 1, 1, 1]);
  });

  it("vary: a scene is described in many ways, not all attributes are said", () => {
    const [scene] = scenes("balanced", 1);
    const captions = Array.from({ length: 200 }, (_, i) => describeScene(scene!, new Choices(5, i)));
    expect(new Set(captions).size).toBeGreaterThan(60);
  });

  it.each([
    ["a red disc to the left of a tiny blue box", "left"],
    ["A picture of a red circle with a small blue square to the right of it.", "left"],
    ["there is a red circle on the left of a blue square", "left"],
    ["a blue square is beneath a red circle", "below"],
  ])("parse: %s", (caption, relation) => {
    const meaning = parseCaption(caption)!;
    expect(meaning.relation).toBe(relation);
    expect(meaning.objects.map(({ colour, shape }) => `${colour} ${shape}`).sort()).toEqual([
      "blue square",
      "red circle",
    ]);
  });

  it.each(["", "red circle", "a red circles", "two red circle", "a circle red", "a red circle left", "a ".repeat(50)])(
    "that break the grammar are refused: %j",
    (caption) => expect(parseCaption(caption)).toBeUndefined(),
  );

  it("are judged attribute by attribute", () => {
    const scene = {
      objects: [
        { shape: "circle", colour: "red", size: "small" as const, row: 0, column: 0 },
        { shape: "star", colour: "blue", size: "large" as const, row: 2, column: 0 },
      ],
    };
    const check = (caption: string) => checkMeaning(parseCaption(caption)!, scene);
    expect(check("a small red circle above a star").exact).toBe(true);
    expect(check("a small red circle").exact).toBe(false);
    expect(check("two red circles").tally.count).toEqual({ said: 1, correct: 0 });
    const wrong = check("a large green star at the bottom and a red circle in the top left").tally;
    expect(wrong.colour).toEqual({ said: 2, correct: 1 });
    expect(wrong.place).toEqual({ said: 2, correct: 1 });
    expect(check("a red circle below a blue star").tally.relation).toEqual({ said: 1, correct: 0 });
  });
});

describe("pictures", () => {
  it.each([64, 128])("of %i pixels are read back by the judge", async (size) => {
    const dataset = new WorldDataset({ split: "balanced", length: 150, size, seed: 11 });
    let right = 0;
    for (let i = 0; i < dataset.length; i++) {
      const { image, attributes } = await dataset.get(i);
      const seen = judgePicture({ width: size, height: size, pixels: image });
      const order = (objects: typeof seen.objects) =>
        objects.map((object) => JSON.stringify(Object.entries(object).sort())).sort();
      if (order(seen.objects).join() === order(attributes!.objects).join()) right++;
    }
    expect(right).toBe(150);
  });

  it("are anti-aliased and as large as they should be", () => {
    const object = { shape: "circle", colour: "white", size: "large" as const, row: 1, column: 1 };
    const { pixels } = drawPicture({ objects: [object] }, 96);
    // Coverage from the red channel: background 40, white 242.
    let area = 0;
    for (let i = 0; i < pixels.length; i += 3) area += (pixels[i]! - 40) / 202;
    expect(area / (Math.PI * (0.4 * 32) ** 2)).toBeCloseTo(1, 2);
    expect(new Set(pixels).size).toBeGreaterThan(12);
  });

  it("are the same whenever they are asked for, and differ between seeds", async () => {
    const make = (seed: number) => new WorldDataset({ split: "paired", length: 10, seed });
    const late = await make(1).get(9);
    for (let i = 0; i < 10; i++) await make(1).get(i);
    expect(await make(1).get(9)).toEqual(late);
    expect((await make(2).get(9)).image).not.toEqual(late.image);
    await expect(make(1).get(10)).rejects.toThrow(RangeError);
  });
});
