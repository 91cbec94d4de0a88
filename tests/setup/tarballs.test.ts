// What a project of one's own gets from `npm run tarballs`: unpacked as npm would, with the engine that is built here.
import { spawnSync } from "node:child_process";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { completeMachine, Sandbox } from "./sandbox.js";

const root = join(import.meta.dirname, "..", "..");
const project = mkdtempSync(join(tmpdir(), "trefoil project "));
const installed = (name: string) => join(project, "node_modules", "@trefoil", name);
const engine = join(root, "native", "build", "Release", "trefoil.node");

function run(file: string, args: string[], env: Record<string, string> = {}) {
  const result = spawnSync(file, args, { cwd: project, encoding: "utf8", env: { ...process.env, ...env } });
  expect(result.status, `${result.error?.message ?? ""}${result.stdout}${result.stderr}`).toBe(0);
  return result.stdout;
}

beforeAll(() => {
  for (const [name, folder] of Object.entries({ native: "native", core: "packages/core", btx: "packages/btx" })) {
    const tarballs = join(project, "tarballs");
    // npm, which is everywhere, lists the same files as the pnpm of the script.
    mkdirSync(tarballs, { recursive: true });
    run("npm", ["pack", join(root, folder), "--ignore-scripts", "--silent", `--pack-destination=${tarballs}`]);
    const tarball = readdirSync(tarballs).find((file) => file.startsWith(`trefoil-${name}-`))!;
    mkdirSync(installed(name), { recursive: true });
    run("tar", ["xzf", join(tarballs, tarball), "--strip-components=1", "-C", installed(name)]);
  }
  // Packages of others, as they are in this workspace.
  for (const name of ["zod", "yaml", "@huggingface"])
    symlinkSync(join(root, "packages", "core", "node_modules", name), join(project, "node_modules", name));
  writeFileSync(join(project, "package.json"), '{ "type": "module" }');
}, 60_000);
afterAll(() => rmSync(project, { recursive: true, force: true }));

it("packs the engine and the packages once all is built, and says how to install them", () => {
  const sandbox = new Sandbox();
  try {
    const pnpm = `case "$1" in --recursive) echo "pnpm $*" >> "$CALLS" ;; *) ${completeMachine.pnpm} ;; esac`;
    const result = sandbox.run("tarballs.mjs", { ...completeMachine, pnpm }, { args: ["a folder"] });
    expect(result.stderr).toBe("");
    expect(result.calls.at(-1)).toMatch(
      /^pnpm --recursive --filter=\.\/native --filter=\.\/packages\/\* pack --pack-destination \/.*a folder$/,
    );
    expect(result.stdout).toMatch(/\nIn your project: npm install "\/.*a folder"\/\*\.tgz\n$/);
    const broken = sandbox.run("tarballs.mjs", { ...completeMachine, pnpm: pnpm.replace("echo", "exit 1; echo") });
    expect(broken.status).toBe(1);
    expect(broken.stderr).toMatch(/The packages could not be packed\.\n$/);
  } finally {
    sandbox.remove();
  }
});

it("holds all that compiles the engine, and compiles it where npm installs", () => {
  const native = installed("native");
  run("cmake", ["-S", native, "-B", join(project, "build")]);
  const sources = (folder: string) =>
    ["include", "src"].flatMap((part) =>
      readdirSync(join(folder, part), { recursive: true })
        .map((path) => join(part, String(path)))
        .filter((path) => !path.startsWith(join("src", "cuda", "emulation")) && statSync(join(folder, path)).isFile()),
    );
  expect(sources(native).sort()).toEqual(sources(join(root, "native")).sort());
  expect(existsSync(join(native, "test"))).toBe(false);
  writeFileSync(join(native, "scripts", "build.mjs"), 'console.log("compiled");');
  const install = JSON.parse(readFileSync(join(native, "package.json"), "utf8")).scripts.install.split(" ")[1];
  expect(run(process.execPath, [join(native, install)], { TREFOIL_NATIVE_PATH: "" })).toBe("compiled\n");
  expect(run(process.execPath, [join(native, install)], { TREFOIL_NATIVE_PATH: engine })).toBe("");
  // In the clone nothing is compiled while packages are installed.
  expect(run(process.execPath, [join(root, "native", install)], { TREFOIL_NATIVE_PATH: "" })).toBe("");
});

it("has types, runs the example of the core README, and the commands of a recipe", () => {
  const [, example] = /```ts\n(.*?)```/s.exec(readFileSync(join(installed("core"), "README.md"), "utf8"))!;
  writeFileSync(join(project, "train.ts"), example!);
  const tsc = join(root, "node_modules", ".bin", "tsc");
  const types = join(root, "node_modules", "@types");
  run(tsc, [
    "--strict",
    "--module",
    "nodenext",
    "--target",
    "es2023",
    "--typeRoots",
    types,
    "--types",
    "node",
    "train.ts",
  ]);
  const lines = run(process.execPath, ["train.js"], { TREFOIL_NATIVE_PATH: engine }).trim().split("\n");
  expect(lines[0]).toMatch(/^step 0: loss \d/);
  expect(lines).toHaveLength(6);
  expect(run(process.execPath, [join(installed("btx"), "bin", "btx.js"), "mix", "--help"])).toMatch(
    /^btx mix: Merge dense/,
  );
});
