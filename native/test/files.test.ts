import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { failure, native } from "./programs.js";

const folder = mkdtempSync(join(tmpdir(), "trefoil-files-"));
afterAll(() => rmSync(folder, { recursive: true }));
const invalid = "TREFOIL_INVALID_ARGUMENT";

it("reads ranges and refuses what is outside", async () => {
  const path = join(folder, "bytes é.bin");
  writeFileSync(
    path,
    Uint8Array.from({ length: 100 }, (_, i) => i),
  );
  const { mapping, bytes } = native.mapFile(path);
  expect(bytes).toBe(100);
  const target = new Uint8Array(4);
  native.readMapping(mapping, 96, target);
  expect([...target]).toEqual([96, 97, 98, 99]);
  native.readMapping(mapping, 100, new Uint8Array(0));
  const error = await failure(() => native.readMapping(mapping, 97, target), invalid);
  expect(error.message).toContain("bytes 97 to 101 are outside the file of 100 bytes");
  for (const offset of [-1, 0.5, Number.MAX_SAFE_INTEGER, Number.NaN])
    await failure(() => native.readMapping(mapping, offset, target), invalid);
  native.unmapFile(mapping);
  await failure(() => native.readMapping(mapping, 0, target), invalid);
});

it("survives a file that shrinks while it is open", async () => {
  const path = join(folder, "shrinking.bin");
  writeFileSync(path, new Uint8Array(1 << 16));
  const { mapping } = native.mapFile(path);
  truncateSync(path, 10);
  const error = await failure(() => native.readMapping(mapping, 0, new Uint8Array(1 << 16)), invalid);
  expect(error.message).toContain("ends at byte 10");
  native.unmapFile(mapping);
});

it("says why a file cannot be opened", async () => {
  expect((await failure(() => native.mapFile(join(folder, "absent")), invalid)).message).toContain("No such file");
  expect((await failure(() => native.mapFile(folder), invalid)).message).toContain("not a regular file");
  await failure(() => native.mapFile("a\0b"), invalid);
});
