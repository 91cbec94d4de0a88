// node scripts/pack.mjs [--without-tests] [trefoil.tar.xz]: packs what a machine without network needs to run recipes and conformance tests: this
// Node, dependencies, built JavaScript, sources and fixtures. There: `tar xf trefoil.tar.xz && cd trefoil && bin/node scripts/start.mjs`
// (or `npm start`), which compiles the engine with the machine's own compilers; docs/gpu.md has the rest.
import { spawnSync } from "node:child_process";
import { existsSync, lstatSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { SetupError } from "./setup/error.mjs";
import { main, root } from "./setup/index.mjs";

const limit = 60e6;
// What only development needs. The rest of the tests' tools comes along for the conformance tests, if they are wanted.
const withoutTests = process.argv.includes("--without-tests");
const left = withoutTests
  ? /^(@biomejs|@turbo|turbo|@typescript|typescript|knip|@oxc|oxc|@?vite|@?rolldown|lightningcss|jiti|@types|esbuild|@esbuild)/
  : /^(@biomejs|@turbo|turbo|@typescript|typescript|knip|@oxc|oxc)/;

/** @param {string} file @param {string[]} args @param {import("node:child_process").SpawnSyncOptions} [options] */
function run(file, args, options) {
  const result = spawnSync(file, args, { encoding: "utf8", maxBuffer: 1 << 28, ...options });
  if (result.status !== 0) throw new SetupError(`${file} ${args[0]} failed: ${result.error?.message ?? result.stderr}`);
  return String(result.stdout);
}

function packages() {
  return readdirSync(join(root, "packages")).map((name) => join("packages", name));
}

/** Paths relative to the repository. */
function listFiles() {
  const tracked = run("git", ["ls-files", "-z"], { cwd: root }).split("\0").filter(Boolean);
  const built = ["native", "benchmarks", ...packages()].map((folder) => join(folder, "dist"));
  const missing = built.find((folder) => !existsSync(join(root, folder)));
  if (missing) throw new SetupError(`${missing} is not there: build first with npm run build.`);
  const store = join("node_modules", ".pnpm");
  const dependencies = readdirSync(join(root, store))
    .filter((name) => !left.test(name) && name !== "lock.yaml")
    .map((name) => join(store, name));
  const linked = [".", "native", "tests", "benchmarks", ...packages()]
    .map((folder) => join(folder, "node_modules"))
    .filter((folder) => existsSync(join(root, folder)))
    .flatMap((folder) =>
      folder === "node_modules"
        ? readdirSync(join(root, folder))
            .filter((name) => !name.startsWith(".") && !left.test(name))
            .map((name) => join(folder, name))
        : [folder],
    );
  return [...tracked, ...built, ...dependencies, ...linked].filter((path) =>
    lstatSync(join(root, path), { throwIfNoEntry: false }),
  );
}

await main(async () => {
  const output = resolve(process.argv.slice(2).find((argument) => !argument.startsWith("--")) ?? "trefoil.tar.xz");
  const folder = mkdtempSync(join(tmpdir(), "trefoil-pack-"));
  try {
    writeFileSync(join(folder, "files"), listFiles().join("\n"));
    // Says to set-up that dependencies and JavaScript are complete as they are.
    writeFileSync(join(folder, "packed.json"), `${JSON.stringify({ node: process.version })}\n`);
    symlinkSync(process.execPath, join(folder, "node"));
    const archive = join(folder, "all.tar");
    const names = "--transform=flags=r;s,^,trefoil/,";
    run("tar", [
      "--create",
      `--file=${archive}`,
      `--directory=${root}`,
      "--hard-dereference",
      "--exclude=.cache",
      "--exclude=*.tsbuildinfo",
      names,
      `--files-from=${join(folder, "files")}`,
    ]);
    run("tar", ["--append", `--file=${archive}`, `--directory=${folder}`, names, "packed.json"]);
    const node = "--transform=flags=r;s,^,trefoil/bin/,";
    run("tar", ["--append", `--file=${archive}`, `--directory=${folder}`, "--dereference", node, "node"]);
    run("xz", ["--threads=0", "-6", "--force", archive]);
    run("mv", [`${archive}.xz`, output]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const { size } = statSync(output);
  console.log(`${output}: ${(size / 1e6).toFixed(1)} MB`);
  if (size > limit) throw new SetupError(`The pack is larger than ${limit / 1e6} MB: see which dependency grew.`);
  return 0;
});
