// The addon beside the event loop, in Workers, and at the end of the process.
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { Worker } from "node:worker_threads";
import { expect, it } from "vitest";
import { busy, doubling, native, openCpu } from "./programs.js";

const path =
  process.env.TREFOIL_NATIVE_PATH ?? fileURLToPath(new URL("../build/Release/trefoil.node", import.meta.url));

it("leaves the event loop free during a run of a second", async () => {
  const device = openCpu({ threads: 1 });
  const program = await busy(device, 1000);
  const gaps: number[] = [];
  let last = performance.now();
  const timer = setInterval(() => {
    gaps.push(performance.now() - last);
    last = performance.now();
  }, 5);
  const start = performance.now();
  await native.run(program, [], [], 0);
  const duration = performance.now() - start;
  clearInterval(timer);
  native.releaseProgram(program);
  expect(duration).toBeGreaterThan(500);
  // A loop that waited for the run would show one gap of a second. 5 ms on an idle machine; the bounds leave room for others
  // that want its cores.
  gaps.sort((a, b) => a - b);
  expect(gaps[Math.floor(gaps.length / 2)]).toBeLessThan(25);
  expect(gaps.at(-1)).toBeLessThan(duration / 3);
});

// Runs in a Worker: doubles [1, 2, 3] `count` times and posts the last result.
const doublingWorker = `
  const { parentPort, workerData } = require("node:worker_threads");
  const native = require(workerData.path);
  const device = native.openDevice({ backend: "cpu", index: 0 });
  const program = native.createProgram(device, workerData.spec);
  (async () => {
    const x = new Float32Array([1, 2, 3]);
    for (let i = 0; i < workerData.count; i++) await native.run(program, [x], [x], 0);
    parentPort.postMessage([...x]);
  })();`;

it("works in several Workers and the main thread at once", async () => {
  const device = openCpu();
  const workers = [1, 2, 3].map(
    (count) => new Worker(doublingWorker, { eval: true, workerData: { path, spec: doubling(3), count } }),
  );
  const program = native.createProgram(device, doubling(3));
  const x = new Float32Array([1, 2, 3]);
  const messages = workers.map((worker) => once(worker, "message"));
  const exits = workers.map((worker) => once(worker, "exit"));
  for (let i = 0; i < 4; i++) await native.run(program, [x], [x], 0);
  expect([...x]).toEqual([16, 32, 48]);
  expect((await Promise.all(messages)).map(([message]) => message)).toEqual([
    [2, 4, 6],
    [4, 8, 12],
    [8, 16, 24],
  ]);
  // Workers end by themselves although their devices and programs are open.
  expect((await Promise.all(exits)).map(([code]) => code)).toEqual([0, 0, 0]);
  native.releaseProgram(program);
});

it("survives Workers that are terminated in the middle of runs", async () => {
  const device = openCpu({ threads: 1 });
  const probe = await busy(device, 20);
  await native.run(probe, [], [], 0);
  const before = native.memory(device);
  const code = `
    const { parentPort, workerData } = require("node:worker_threads");
    const native = require(workerData.path);
    const device = native.openDevice({ backend: "cpu", index: 0, threads: 1 });
    const n = 1 << 16;
    native.createBuffer(device, 4 * n);
    const value = { dtype: 0, shape: [n], kind: "temporary" };
    const slow = native.createProgram(device, {
      values: [{ ...value, kind: "input", index: 0 }, value],
      instructions: Array.from({ length: 2000 }, () => ({ op: "elementwise", inputs: [0], outputs: [1], attributes: [1, 17, 0, 0, 0, 0, 1] })),
      outputs: [1],
    });
    const data = new Float32Array(n);
    for (let i = 0; i < 20; i++) native.run(slow, [data], [new Float32Array(n)], 0);
    parentPort.postMessage("running");`;
  for (let round = 0; round < 5; round++) {
    const worker = new Worker(code, { eval: true, workerData: { path } });
    await once(worker, "message");
    if (round % 2) await new Promise((resolve) => setTimeout(resolve, 10));
    await worker.terminate();
  }
  await native.run(probe, [], [], 0); // the device is fine, and the Workers' memory is gone
  await native.synchronize(device);
  expect(native.memory(device).live).toBeLessThanOrEqual(before.live);
  expect(native.memory(device).buffers).toBe(before.buffers);
  native.releaseProgram(probe);
});

function runNode(source: string) {
  const script = `
    const native = require(${JSON.stringify(path)});
    const device = native.openDevice({ backend: "cpu", index: 0 });
    native.createBuffer(device, 1 << 20);
    const program = native.createProgram(device, ${JSON.stringify(doubling(1 << 20))});
    const x = new Float32Array(1 << 20).fill(1);
    ${source}`;
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ["-e", script], {
    encoding: "utf8",
    timeout: 20_000,
  });
  return { status, signal, stdout, stderr };
}
const clean = { status: 0, signal: null, stderr: "" };

it("lets the process end with a device open, and not before its runs are done", () => {
  expect(runNode("")).toEqual({ ...clean, stdout: "" });
  expect(runNode("native.run(program, [x], [x], 0).then(() => console.log(x[0]));")).toEqual({
    ...clean,
    stdout: "2\n",
  });
});

it("lets process.exit end the process in the middle of runs", () => {
  const source = "for (let i = 0; i < 10; i++) native.run(program, [x], [x], 0); setTimeout(() => process.exit(0), 2);";
  for (let round = 0; round < 3; round++) expect(runNode(source)).toEqual({ ...clean, stdout: "" });
});

it("ends with an uncaught rejection like any other", () => {
  const { status, stderr } = runNode("native.run(program, [x], [x], 0).then(() => { throw new Error('mine'); });");
  expect(status).toBe(1);
  expect(stderr).toContain("Error: mine");
});
