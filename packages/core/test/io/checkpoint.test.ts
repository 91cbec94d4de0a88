import { fork } from "node:child_process";
import { existsSync } from "node:fs";
import { appendFile, mkdir, open, readdir, readFile, rename, rm, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, expect, it, vi } from "vitest";
import { type CheckpointContent, loadLatestCheckpoint, saveCheckpoint } from "../../src/io/index.js";
import { scratch } from "./folders.js";

const content = (value: number): CheckpointContent => ({
  tensors: {
    "model.weight": { dtype: "F32", shape: [2, 2], data: Float32Array.of(value, -0, Number.NaN, 1e-45) },
    "rng.counter": { dtype: "I32", shape: [1], data: Int32Array.of(value) },
    "cache.keys": { dtype: "BF16", shape: [1], data: Uint16Array.of(0x3f80) },
  },
  state: { step: value, cursor: { domains: [1, 2.5], name: "é" }, done: false, none: null },
});
const folderOf = (run: string) => join(run, "checkpoints");
const newest = (step: number) => ({ checkpoint: expect.objectContaining({ step }), warnings: [] });

afterEach(() => {
  vi.restoreAllMocks();
});

it("brings everything back, bit for bit, and keeps the last ones", async () => {
  const run = await scratch();
  expect(await loadLatestCheckpoint(run)).toBeUndefined();
  for (const step of [1, 2, 30, 4]) await saveCheckpoint(run, step, content(step), { keepLast: 2 });
  expect((await readdir(folderOf(run))).sort()).toEqual(["step-00000002", "step-00000004"]); // 30 was left behind by going back
  const loaded = await loadLatestCheckpoint(run);
  expect(loaded?.warnings).toEqual([]);
  expect(loaded?.checkpoint.step).toBe(4);
  expect(loaded?.checkpoint.state).toEqual(content(4).state);
  for (const [name, { dtype, shape, data }] of Object.entries(content(4).tensors)) {
    const found = loaded?.checkpoint.tensors[name];
    expect(found).toMatchObject({ dtype, shape });
    expect(found?.data.constructor).toBe(data.constructor);
    expect(Buffer.from(found?.data.buffer as ArrayBuffer)).toEqual(Buffer.from(data.buffer));
  }
});

it.each([
  ["a cut tensor file", (path: string) => truncate(join(path, "tensors.safetensors"), 100)],
  ["a longer tensor file", (path: string) => appendFile(join(path, "tensors.safetensors"), "x")],
  ["one changed byte", async (path: string) => {
    const handle = await open(join(path, "tensors.safetensors"), "r+");
    const { size } = await handle.stat();
    await handle.write(Uint8Array.of(0x55), 0, 1, size - 1);
    await handle.close();
  }],
  ["no state", (path: string) => rm(join(path, "state.json"))],
  ["a broken manifest", (path: string) => writeFile(join(path, "manifest.json"), "{")],
  ["no manifest", (path: string) => rm(join(path, "manifest.json"))],
])("falls back from a newest checkpoint with %s", async (_what, damage) => {
  const run = await scratch();
  await saveCheckpoint(run, 1, content(1), { keepLast: 3 });
  await damage(await saveCheckpoint(run, 2, content(2), { keepLast: 3 }));
  const loaded = await loadLatestCheckpoint(run);
  expect(loaded?.checkpoint.step).toBe(1);
  expect(loaded?.warnings).toEqual([expect.stringContaining("step-00000002")]);
  await rm(join(folderOf(run), "step-00000001", "manifest.json"));
  await expect(loadLatestCheckpoint(run)).rejects.toMatchObject({ code: "CHECKPOINT_NONE_READABLE" });
});

it("clears what a killed save left, and recovers a checkpoint killed while being replaced", async () => {
  const run = await scratch();
  const path = await saveCheckpoint(run, 5, content(5), { keepLast: 2 });
  await rename(path, join(folderOf(run), ".replaced-step-00000005"));
  await mkdir(join(folderOf(run), ".tmp-step-00000005-99-abc"));
  await writeFile(join(folderOf(run), ".tmp-step-00000005-99-abc", "tensors.safetensors"), "half");
  expect(await loadLatestCheckpoint(run)).toEqual(newest(5));
  await saveCheckpoint(run, 6, content(6), { keepLast: 2 });
  expect((await readdir(folderOf(run))).sort()).toEqual(["step-00000005", "step-00000006"]);
  await saveCheckpoint(run, 6, content(60), { keepLast: 2 });
  expect((await loadLatestCheckpoint(run))?.checkpoint.state).toMatchObject({ step: 60 });
  expect((await readdir(folderOf(run))).sort()).toEqual(["step-00000005", "step-00000006"]);
});

it("leaves earlier checkpoints intact on a full disk, and says how much room was needed", async () => {
  const run = await scratch();
  await saveCheckpoint(run, 1, content(1), { keepLast: 1 });
  const handle = await open(join(run, "probe"), "w");
  const prototype = Object.getPrototypeOf(handle) as typeof handle;
  await handle.close();
  for (const failing of ["write", "sync"] as const) {
    for (let allowed = 0; allowed < 4; allowed++) {
      const original = prototype[failing] as (...args: unknown[]) => Promise<never>;
      let calls = 0;
      vi.spyOn(prototype, failing).mockImplementation(function (this: typeof handle, ...args: unknown[]) {
        if (calls++ < allowed) return original.apply(this, args);
        return Promise.reject(Object.assign(new Error("no space left on device"), { code: "ENOSPC" }));
      } as never);
      const error = await saveCheckpoint(run, 2, content(2), { keepLast: 1 }).catch((reason: unknown) => reason);
      vi.restoreAllMocks();
      if (!(error instanceof Error)) throw new Error(`the save succeeded with ${allowed} calls of ${failing}`);
      expect(error).toMatchObject({ code: "CHECKPOINT_DISK_FULL" });
      const { bytesNeeded } = error as unknown as { bytesNeeded: number };
      expect(bytesNeeded).toBeGreaterThan(22);
      expect(error.message).toContain(`needs ${bytesNeeded} bytes`);
      expect(await readdir(folderOf(run))).toEqual(["step-00000001"]);
      expect(await loadLatestCheckpoint(run)).toEqual(newest(1));
    }
  }
});

it("refuses state that JSON would change and data that does not fit its shape", async () => {
  const run = await scratch();
  await expect(saveCheckpoint(run, 1, { tensors: {}, state: { loss: Infinity } }, { keepLast: 1 })).rejects.toMatchObject({ code: "CHECKPOINT_WRITE_FAILED" });
  const tensors = { a: { dtype: "F32", shape: [3], data: new Float32Array(2) } } as const;
  await expect(saveCheckpoint(run, 1, { tensors, state: null }, { keepLast: 1 })).rejects.toMatchObject({ code: "CHECKPOINT_WRITE_FAILED" });
  await expect(saveCheckpoint(run, 1.5, content(1), { keepLast: 1 })).rejects.toMatchObject({ code: "CHECKPOINT_WRITE_FAILED" });
  expect(existsSync(folderOf(run))).toBe(false);
});

it("survives kill -9 at any moment", async () => {
  const run = await scratch();
  const built = new URL("../../dist/io/checkpoint.js", import.meta.url);
  const saver = join(run, "saver.mjs");
  await writeFile(
    saver,
    `import { saveCheckpoint } from ${JSON.stringify(built.href)};
     const data = new Float32Array(1 << 18);
     for (let step = Number(process.argv[3]); ; step++) {
       data.fill(step);
       await saveCheckpoint(process.argv[2], step, { tensors: { data: { dtype: "F32", shape: [data.length], data } }, state: step }, { keepLast: 2 });
       process.send(step);
     }`,
  );
  expect(existsSync(fileURLToPath(built)), "build the package before its tests").toBe(true);
  let next = 1;
  for (let round = 0; round < 6; round++) {
    let finished = next - 1;
    const child = fork(saver, [run, String(next)]);
    await new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.on("message", (step: number) => {
        finished = step;
        if (step < next + 2) return;
        setTimeout(() => child.kill("SIGKILL"), round * 1.7); // at another point of a save in each round
      });
      child.once("exit", () => resolve());
    });
    expect(finished).toBeGreaterThanOrEqual(next + 2);
    const loaded = await loadLatestCheckpoint(run);
    expect(loaded?.warnings).toEqual([]);
    const step = loaded?.checkpoint.step as number;
    expect(step).toBeGreaterThanOrEqual(finished);
    expect(loaded?.checkpoint.state).toBe(step);
    const data = loaded?.checkpoint.tensors.data?.data as Float32Array;
    expect(data.every((value) => value === step)).toBe(true);
    next = step + 1;
  }
  expect(JSON.parse(await readFile(join(folderOf(run), `step-${String(next - 1).padStart(8, "0")}`, "manifest.json"), "utf8"))).toMatchObject({ step: next - 1 });
}, 60_000);
