import { describe, expect, it } from "vitest";
import { imageBatch, toBytes, toUnit } from "../../src/images/pixels.js";

describe("pixels", () => {
  it("come back from [-1, 1] as they were, all 256 of them", () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const unit = toUnit(bytes);
    expect([unit[0], unit[255]]).toEqual([-1, 1]);
    expect(toBytes(unit)).toEqual(bytes);
    expect(toBytes(Float32Array.of(-7, 7))).toEqual(Uint8Array.of(0, 255));
  });

  it("stack into batches in the order asked for", async () => {
    const get = async (index: number) => ({
      id: `${index}`,
      image: new Uint8Array(12).fill(index * 255),
      captions: [],
    });
    const batch = await imageBatch({ length: 2, size: 2, get }, [1, 0]);
    expect([...batch]).toEqual([...new Array(12).fill(1), ...new Array(12).fill(-1)]);
  });
});
