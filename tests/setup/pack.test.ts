// What scripts/pack.mjs packs, and that it runs where it is unpacked: with git, tar and xz, on a small tree.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { completeMachine, Sandbox } from "./sandbox.js";

const system = "PATH=/usr/local/bin:/usr/bin:/bin";
// The level that the script asks for takes Node's executable half a minute.
const programs = {
  ...completeMachine,
  ...Object.fromEntries(["git", "tar", "mv"].map((name) => [name, `${system} exec ${name} "$@"`])),
  xz: `for file; do :; done; ${system} exec xz --threads=0 -0 "$file"`,
};

let sandbox: Sandbox;
let elsewhere: string;
beforeAll(() => {
  sandbox = new Sandbox();
  elsewhere = mkdtempSync(join(tmpdir(), "trefoil unpacked "));
});
afterAll(() => {
  sandbox.remove();
  rmSync(elsewhere, { recursive: true, force: true });
});

function write(path: string, text: string) {
  mkdirSync(dirname(join(sandbox.root, path)), { recursive: true });
  writeFileSync(join(sandbox.root, path), text);
}

it("asks for a build where there is none", () => {
  spawnSync("git", ["init", "--quiet"], { cwd: sandbox.root });
  const result = sandbox.run("pack.mjs", programs);
  expect(result.status).toBe(1);
  expect(result.stderr.trim()).toMatch(/^\S+dist is not there: build first with npm run build\.$/);
  expect(existsSync(join(sandbox.root, "trefoil.tar.xz"))).toBe(false);
});

it("packs a tree that sets itself up and runs a recipe without network", { timeout: 300_000 }, () => {
  for (const folder of ["native", "benchmarks", "packages/core"]) write(`${folder}/dist/index.js`, "");
  // Stands in for the build of the engine; the recipe needs a package of the store, through its own link.
  write(
    "native/scripts/build.mjs",
    'import { writeFileSync } from "node:fs";\nwriteFileSync(new URL("../built", import.meta.url), "");\n',
  );
  write("packages/btx/dist/cli.js", 'import answer from "answer";\nconsole.log(answer, ...process.argv.slice(2));\n');
  write("packages/btx/package.json", '{ "type": "module" }');
  write("node_modules/.pnpm/answer@1.0.0/node_modules/answer/package.json", '{ "type": "module", "main": "index.js" }');
  write("node_modules/.pnpm/answer@1.0.0/node_modules/answer/index.js", 'export default "forty-two";\n');
  write("node_modules/.pnpm/typescript@1.0.0/node_modules/typescript/index.js", "");
  write("node_modules/.pnpm/vitest@1.0.0/node_modules/vitest/index.js", "");
  mkdirSync(join(sandbox.root, "packages", "btx", "node_modules"));
  symlinkSync(
    "../../../node_modules/.pnpm/answer@1.0.0/node_modules/answer",
    join(sandbox.root, "packages", "btx", "node_modules", "answer"),
  );
  write(".gitignore", "bin/\nnode_modules/\ndist/\n*.fake\ncalls.txt\nbuilt\n*.log\n");
  spawnSync("git", ["add", "--all"], { cwd: sandbox.root });
  write("untracked.txt", "");

  const archive = join(elsewhere, "trefoil.tar.xz");
  const result = sandbox.run("pack.mjs", programs, { args: [archive] });
  expect(result.stderr).toBe("");
  expect(result.stdout).toMatch(/trefoil\.tar\.xz: \d+\.\d MB\n$/);
  expect(result.status).toBe(0);
  expect(spawnSync("tar", ["xf", archive], { cwd: elsewhere, encoding: "utf8" }).stderr).toBe("");

  const tree = join(elsewhere, "trefoil");
  expect(JSON.parse(readFileSync(join(tree, "packed.json"), "utf8"))).toEqual({ node: process.version });
  for (const path of ["pnpm-lock.yaml", "scripts/pack.mjs", "native/scripts/nvcc.mjs", "benchmarks/dist/index.js"])
    expect(existsSync(join(tree, path)), path).toBe(true);
  for (const path of ["untracked.txt", "calls.txt", "node_modules/.pnpm/typescript@1.0.0", "native/built"])
    expect(existsSync(join(tree, path)), path).toBe(false);

  expect(existsSync(join(tree, "node_modules/.pnpm/vitest@1.0.0"))).toBe(true);

  // No pnpm, npx or turbo, and no PATH at all.
  const node = join(tree, "bin", "node");
  const start = spawnSync(node, [join(tree, "scripts", "start.mjs"), "btx", "--device", "cpu"], {
    cwd: elsewhere,
    encoding: "utf8",
    env: { PATH: "" },
  });
  expect(start.stderr).toBe("");
  expect(start.stdout.trim().split("\n").at(-1)).toBe("forty-two quickstart --device cpu");
  expect(existsSync(join(tree, "native", "built"))).toBe(true);
});

it("leaves the tests' tools out where they are not wanted", { timeout: 300_000 }, () => {
  const archive = join(elsewhere, "small.tar.xz");
  expect(sandbox.run("pack.mjs", programs, { args: ["--without-tests", archive] }).status).toBe(0);
  const names = spawnSync("tar", ["tf", archive], { encoding: "utf8" }).stdout.split("\n");
  expect(names.filter((name) => name.includes("/answer@1.0.0/")).length).toBeGreaterThan(0);
  expect(names.filter((name) => name.includes("/vitest@1.0.0/"))).toEqual([]);
});
