import { spawnSync } from "node:child_process";
import { chmodSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const repository = join(import.meta.dirname, "..", "..");

/** Programs that a set-up script may ask for, as shell scripts. */
export type Programs = Record<string, string>;

const pnpm = `case "$1" in
  --version) echo "$PNPM_VERSION" ;;
  install) echo "pnpm $*" >> "$CALLS"; mkdir -p node_modules/turbo/bin; cp turbo.fake node_modules/turbo/bin/turbo ;;
esac`;

/** A machine on which everything is there; a test takes programs away or breaks them. */
export const completeMachine: Programs = {
  cmake: "echo cmake version 3.25.1",
  "c++": 'case "$*" in *-dumpversion*) echo 12 ;; *) cat > "$PROBE" ;; esac',
  make: "exit 0",
  pnpm,
  npx: 'echo "npx $*" >> "$CALLS"; exit 1',
};

/** A copy of the set-up scripts in a folder with a space, run with a PATH that holds only the programs given. */
export class Sandbox {
  readonly root = mkdtempSync(join(tmpdir(), "trefoil set-up "));
  readonly #bin = join(this.root, "bin");

  constructor() {
    for (const name of ["scripts", "native/scripts", "package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml"]) {
      cpSync(join(repository, name), join(this.root, name), { recursive: true });
    }
    mkdirSync(join(this.root, "packages", "core", "src"), { recursive: true });
    for (const recipe of ["btx", "contrastive-rlhf", "synth2"]) {
      const folder = join(this.root, "packages", recipe);
      for (const part of ["src", "dist"]) mkdirSync(join(folder, part), { recursive: true });
      writeFileSync(join(folder, "src", "cli.ts"), "");
      writeFileSync(
        join(folder, "dist", "cli.js"),
        `console.log(JSON.stringify(["${recipe}", ...process.argv.slice(2)])); process.exitCode = Number(process.env.QUICKSTART_STATUS ?? 0);`,
      );
    }
    // Stands in for turbo: notes its tasks, and ends as TURBO_STATUS says.
    writeFileSync(
      join(this.root, "turbo.fake"),
      `require("node:fs").appendFileSync(process.env.CALLS, "turbo " + process.argv.slice(2, 5).join(" ") + "\\n");
       console.log("kernel.cc:7: error: expected ';'"); process.exitCode = Number(process.env.TURBO_STATUS ?? 0);`,
    );
  }

  /** Runs a script of the copy; `calls` lists what it ran of pnpm, npx and turbo. */
  run(
    script: string,
    programs: Programs,
    { args = [], env = {} }: { args?: string[]; env?: Record<string, string> } = {},
  ) {
    rmSync(this.#bin, { recursive: true, force: true });
    mkdirSync(this.#bin);
    // What the stand-ins themselves need.
    const shell = ["cat", "cp", "mkdir"].map((name) => `${name}() { /bin/${name} "$@"; }`).join("\n");
    for (const [name, body] of Object.entries(programs)) {
      writeFileSync(join(this.#bin, name), `#!/bin/sh\n${shell}\n${body}\n`);
      chmodSync(join(this.#bin, name), 0o755);
    }
    const calls = join(this.root, "calls.txt");
    writeFileSync(calls, "");
    const pinned: string = JSON.parse(readFileSync(join(this.root, "package.json"), "utf8")).packageManager;
    const result = spawnSync(process.execPath, [join(this.root, "scripts", script), ...args], {
      cwd: this.root,
      encoding: "utf8",
      input: "",
      env: {
        PATH: this.#bin,
        CALLS: calls,
        PROBE: join(this.root, "probe.cc"),
        PNPM_VERSION: pinned.split("@")[1] ?? "",
        ...env,
      },
    });
    return {
      status: result.status,
      stdout: result.stdout,
      stderr: result.stderr,
      calls: readFileSync(calls, "utf8").split("\n").filter(Boolean),
    };
  }

  remove() {
    rmSync(this.root, { recursive: true, force: true });
  }
}
