import { join } from "node:path";
import { expect, it } from "vitest";
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, SafetensorsFile } from "../../src/io/index.js";
import { fixtures } from "./folders.js";

it("narrows and widens as PyTorch does", async () => {
  await using file = await SafetensorsFile.open(join(fixtures, "half.safetensors"));
  const f32 = await file.readF32("f32");
  for (const [name, narrow, widen] of [
    ["f16", f32ToF16, f16ToF32],
    ["bf16", f32ToBf16, bf16ToF32],
  ] as const) {
    const expected = new Uint16Array((await file.read(name)).buffer as ArrayBuffer);
    const found = narrow(f32);
    const back = widen(found);
    for (const [i, value] of f32.entries()) {
      if (Number.isNaN(value)) expect(back[i]).toBeNaN();
      else if (found[i] !== expected[i]) expect.fail(`${name} of ${value}: ${found[i]} instead of ${expected[i]}`);
    }
    expect(f32.length).toBeGreaterThan(4000);
  }
});

it("returns every 16-bit pattern unchanged after widening", () => {
  const all = Uint16Array.from({ length: 65536 }, (_, bits) => bits);
  for (const [narrow, widen] of [
    [f32ToF16, f16ToF32],
    [f32ToBf16, bf16ToF32],
  ] as const) {
    const wide = widen(all);
    const back = narrow(wide);
    for (const bits of all)
      if (!Number.isNaN(wide[bits]) && back[bits] !== bits) expect.fail(`${bits} became ${back[bits]}`);
  }
  // float16 against its definition: sign, 5 exponent bits, 10 fraction bits
  const values = f16ToF32(all);
  for (const bits of all) {
    const [exponent, fraction] = [(bits >> 10) & 31, bits & 1023];
    const magnitude =
      exponent === 31
        ? fraction
          ? Number.NaN
          : Infinity
        : exponent
          ? (1 + fraction / 1024) * 2 ** (exponent - 15)
          : fraction * 2 ** -24;
    expect(Object.is(values[bits], bits & 0x8000 ? -magnitude : magnitude)).toBe(true);
  }
});
