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

function gpu(stages: string[], seconds = 1000, more: Record<string, string> = {}) {
  const result = spawnSync("bash", [join(root, "native", "lab", "gpu.sh"), join(root, "results"), ...stages], {
    encoding: "utf8",
    // Neither nvcc nor Python nor Node of this machine.
    env: {
      PATH: "/usr/bin:/bin",
      CUDA_HOME: root,
      PYTHON: "false",
      NODE: "/nowhere/node",
      TREFOIL_GPU_SECONDS: String(seconds),
      ...more,
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
  const report = 'FAIL softmax: "CUDA driver version is insufficient" – here';
  program("native/build-gpu/trefoil_tests", `printf '%s\\n' '${report}'; echo '0 passed, 1 failed'; exit 1`);
  program("native/build-cuda/libtrefoil_cuda.so", "");
  const first = gpu(["test", "peers"]);
  expect(first.status).toBe(1);
  const steps = (found: { steps: { name: string }[] }) => found.steps.map(({ name }) => name);
  const found = first.read();
  expect(found.tests.trim()).toBe("0 passed, 4 failed"); // in four processes
  expect(found.steps[0]).toMatchObject({ name: "op tests", status: "failed with status 1" });
  expect(found.steps[0].tail).toContain('FAIL softmax: "CUDA driver version is insufficient"  here'); // nothing but ASCII
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

it("shares the op tests out and counts them together, those of a part that does not end as well", {
  timeout: 60_000,
}, () => {
  program("native/build-cuda/libtrefoil_cuda.so", "");
  program(
    "native/build-gpu/trefoil_tests",
    `for last; do :; done; case "$*" in *--shard=1/3) echo partial; exec sleep 60 ;; *) echo "10 passed, 1 failed"; exit 1 ;; esac`,
  );
  const { status, stdout, read } = gpu(["test"], 16, { TREFOIL_GPU_SHARDS: "3" });
  expect(status).toBe(1);
  expect(stdout).toMatch(/^gpu\.sh: {3}20 passed, 2 failed, and 1 of 3 parts did not end$/m);
  expect(read().tests.trim()).toBe("20 passed, 2 failed, and 1 of 3 parts did not end");
});

it("runs checkers over the tests that are named, and no bench of wgmma where its tests fail", () => {
  program("native/build-cuda/libtrefoil_cuda.so", "");
  program("native/build-cuda/cuda_bench", `echo '{"lines": ['; echo ']}'`);
  program(
    "native/build-gpu/trefoil_tests",
    `[ -z "$TREFOIL_CUDA_WGMMA" ] || { echo "1 passed, 1 failed"; exit 1; }; echo "$@"; echo "1 passed, 0 failed"`,
  );
  program(
    "bin/compute-sanitizer",
    `while [ "\${1#--}" != "$1" ]; do [ "$1" = --tool ] || [ "$1" = --target-processes ] || [ "$1" = --error-exitcode ] && shift; shift; done; exec "$@"`,
  );
  const first = gpu(["test", "bench", "memcheck"], 1000, {
    TREFOIL_GPU_TESTS: "softmax norm",
    TREFOIL_GPU_SHARDS: "2",
  });
  expect(first.status).toBe(1);
  const step = (name: string) => first.read().steps.find((found: { name: string }) => found.name === name);
  expect(step("op tests, own products")).toMatchObject({ status: "ok" });
  expect(step("op tests, wgmma")).toMatchObject({ status: "failed with status 1" });
  expect(step("bench-bf16-wgmma").status).toMatch(/^skipped: op tests with wgmma failed/);
  expect(step("compute-sanitizer memcheck, softmax norm")).toMatchObject({ status: "ok" });
  const log = readFileSync(join(root, "native", "build-gpu", "results", "memcheck-softmax-norm.txt"), "utf8");
  expect(log).toMatch(/softmax norm --shard=0\/2\n.*\n2 passed, 0 failed\n$/s);
  expect(gpu(["bench"], 1000, { TREFOIL_GPU_ANYWAY: "1" }).read().found["bench-bf16-wgmma"]).toEqual({ lines: [] });
});
