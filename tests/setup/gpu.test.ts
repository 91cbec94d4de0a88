// native/lab/gpu.sh with programs that stand in for what it builds: what it records, whatever goes wrong.
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "trefoil gpu "));
  mkdirSync(join(root, "native", "lab"), { recursive: true });
  cpSync(join(import.meta.dirname, "../../native/lab/gpu.sh"), join(root, "native", "lab", "gpu.sh"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function program(path: string, body: string) {
  mkdirSync(join(root, path, ".."), { recursive: true });
  writeFileSync(join(root, path), `#!/bin/sh\n${body}\n`, { mode: 0o755 });
}

function gpu(stages: string[], seconds = 1000) {
  const result = spawnSync("bash", [join(root, "native", "lab", "gpu.sh"), join(root, "results"), ...stages], {
    encoding: "utf8",
    // Neither nvcc nor Python nor Node of this machine.
    env: {
      PATH: "/usr/bin:/bin",
      CUDA_HOME: root,
      PYTHON: "false",
      NODE: "/nowhere/node",
      TREFOIL_GPU_SECONDS: String(seconds),
    },
  });
  const read = () => JSON.parse(readFileSync(join(root, "results", "results.json"), "utf8"));
  return { status: result.status, stdout: result.stdout, stderr: result.stderr, read };
}

it("names the stages where one is unknown", () => {
  const { status, stderr } = gpu(["tests"]);
  expect(status).toBe(2);
  expect(stderr).toMatch(/^gpu\.sh: there is no stage "tests": they are build test .*\n$/);
});

it("records a failure with the end of its log and goes on; a later call adds to what is known", () => {
  const report = 'no device: "CUDA driver version is insufficient"';
  program("native/build-gpu/trefoil_tests", `printf '%s\\n' '${report}'; echo '0 passed, 1 failed'; exit 1`);
  program("native/build-cuda/libtrefoil_cuda.so", "");
  const first = gpu(["test", "peers"]);
  expect(first.status).toBe(1);
  const steps = (found: { steps: { name: string }[] }) => found.steps.map(({ name }) => name);
  const found = first.read();
  expect(found.tests.trim()).toBe("0 passed, 1 failed");
  expect(found.steps[0]).toMatchObject({ name: "op tests", status: "failed with status 1" });
  expect(found.steps[0].tail).toContain(report);
  expect(found.steps.at(-1)).toMatchObject({ name: "peers", status: "skipped: no PyTorch with CUDA here" });

  const second = gpu(["bench", "curves"]);
  expect(second.status).toBe(0);
  expect(steps(second.read())).toEqual(expect.arrayContaining([...steps(found), "bench", "curves"]));
});

it("keeps the whole lines of a bench that runs out of time", { timeout: 60_000 }, () => {
  program("native/build-cuda/libtrefoil_cuda.so", "");
  program(
    "native/build-cuda/cuda_bench",
    `echo '{"copy_gbps": 3000.0, "lines": ['; printf '  {"name": "a", "milliseconds": 1},\\n  {"name": "b", "milliseconds": 2},\\n  {"name": "c", '; exec sleep 60`,
  );
  const { status, read } = gpu(["bench"], 18);
  expect(status).toBe(1);
  const { steps, found } = read();
  expect(steps[0]).toMatchObject({ name: "bench-bf16", status: expect.stringMatching(/^stopped after \d+ s$/) });
  expect(steps.at(-1)).toMatchObject({ status: "not started: no time was left" });
  expect(found["bench-bf16"]).toEqual({
    copy_gbps: 3000,
    lines: [
      { name: "a", milliseconds: 1 },
      { name: "b", milliseconds: 2 },
    ],
  });
});
