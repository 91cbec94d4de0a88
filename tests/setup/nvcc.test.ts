// Which nvcc is taken where there are several.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "trefoil nvcc "));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function nvcc(path: string, release: string) {
  const file = join(root, path);
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `#!/bin/sh\necho "Cuda compilation tools, release ${release}, V${release}.1"\n`, { mode: 0o755 });
  return file;
}

function found(environment: Record<string, string>) {
  const script = new URL("../../native/scripts/nvcc.mjs", import.meta.url).href;
  const program = `import { findNvcc } from ${JSON.stringify(script)}; console.log(JSON.stringify(findNvcc() ?? null));`;
  const env = { PATH: join(root, "usr"), CUDA_HOME: join(root, "toolkit"), ...environment };
  const result = spawnSync(process.execPath, ["--input-type=module", "--eval", program], { encoding: "utf8", env });
  expect(result.stderr).toBe("");
  return JSON.parse(result.stdout);
}

it("passes over one on PATH that is too old where the toolkit has a newer one", () => {
  nvcc("usr/nvcc", "11.8");
  const path = nvcc("toolkit/bin/nvcc", "12.4");
  expect(found({})).toEqual({ path, version: [12, 4] });
});

it("takes the one of CUDACXX before others", () => {
  nvcc("usr/nvcc", "13.0");
  const path = nvcc("chosen/nvcc", "12.9");
  expect(found({ CUDACXX: path })).toEqual({ path, version: [12, 9] });
});
