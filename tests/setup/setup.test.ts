import { spawn, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { completeMachine, type Programs, Sandbox } from "./sandbox.js";

let sandbox: Sandbox;
beforeEach(() => {
  sandbox = new Sandbox();
});
afterEach(() => sandbox.remove());

const without = (name: string): Programs => {
  const { [name]: _, ...rest } = completeMachine;
  return rest;
};

/** A failure is one sentence on stderr, and nothing was installed or built. */
function expectSentence(result: ReturnType<Sandbox["run"]>, pattern: RegExp) {
  expect(result.status).toBe(1);
  expect(result.stderr.trim().split("\n")).toHaveLength(1);
  expect(result.stderr.trim()).toMatch(pattern);
  expect(result.stderr.trim()).toMatch(/\.$/);
  expect(result.calls.filter((call) => !call.startsWith("npx"))).toEqual([]);
}

describe("what is missing", () => {
  it("CMake", () => {
    expectSentence(
      sandbox.run("test.mjs", without("cmake")),
      /^CMake was not found: install CMake 3\.20 or newer, .*`/,
    );
  });

  it("a CMake that is new enough", () => {
    const programs = { ...completeMachine, cmake: "echo cmake version 3.16.3" };
    expectSentence(sandbox.run("test.mjs", programs), /^CMake 3\.16\.3 is too old: install CMake 3\.20 or newer/);
  });

  it("a C++ compiler", () => {
    expectSentence(
      sandbox.run("start.mjs", without("c++")),
      /^No C\+\+ compiler was found: install one that knows C\+\+20/,
    );
  });

  it("the compiler that CXX names", () => {
    expectSentence(
      sandbox.run("start.mjs", completeMachine, { env: { CXX: "clang++-99" } }),
      /^CXX names `clang\+\+-99`/,
    );
  });

  it("C++20 in the compiler", () => {
    const programs = { ...completeMachine, "c++": "exit 1" };
    expectSentence(
      sandbox.run("start.mjs", programs),
      /^The C\+\+ compiler `c\+\+` cannot compile C\+\+20: install GCC 11/,
    );
  });

  it("make and ninja", () => {
    expectSentence(sandbox.run("start.mjs", without("make")), /^Neither make nor ninja was found/);
  });

  it("npx, where there is no pnpm", () => {
    const { npx: _, pnpm: __, ...programs } = completeMachine;
    expectSentence(sandbox.run("test.mjs", programs), /^Neither pnpm \d+\.\d+\.\d+ nor npx was found: install npm/);
  });

  it("the recipe asked for", () => {
    expectSentence(
      sandbox.run("start.mjs", completeMachine, { args: ["bxt"] }),
      /^There is no recipe "bxt": the recipes are btx/,
    );
  });
});

it("an old Node is named by a script that Node 0.10 can read", () => {
  const script = readFileSync(join(sandbox.root, "scripts", "node-version.cjs"), "utf8");
  expect(script).not.toMatch(/=>|\b(?:const|let|class|import|await)\b|`\$|\?\.|\?\?/);
  for (const [version, status] of Object.entries({ "18.20.8": 1, "20.18.3": 1, "20.19.0": 0, "22.1.0": 0 })) {
    const prelude = `Object.defineProperty(process, "versions", { value: { node: "${version}" } });`;
    const result = spawnSync(process.execPath, ["-e", prelude + script], { encoding: "utf8" });
    expect(result.status).toBe(status);
    if (status)
      expect(result.stderr).toMatch(
        new RegExp(`^Trefoil needs Node 20\\.19 or newer and this is Node ${version}: install .*\\.\n$`),
      );
  }
});

describe("no network", () => {
  const offline = 'echo "npm error code EAI_AGAIN"; echo "npm error request to the registry failed"; exit 1';

  it("while npx fetches pnpm", () => {
    const result = sandbox.run("test.mjs", { ...without("pnpm"), npx: offline });
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(
      /^pnpm \d+\.\d+\.\d+ could not be downloaded because the npm registry was not reached: connect .*\.\n$/,
    );
  });

  it("while pnpm installs", () => {
    const pnpm =
      'case "$1" in --version) echo "$PNPM_VERSION" ;; *) echo "ERR_PNPM_META_FETCH_FAIL getaddrinfo ENOTFOUND"; exit 1 ;; esac';
    const result = sandbox.run("test.mjs", { ...completeMachine, pnpm });
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(
      /^The packages could not be downloaded because the npm registry was not reached: connect .*\.\n$/,
    );
  });
});

describe("set-up", () => {
  it("installs the lockfile, builds, then runs the quickstart with the flags given", () => {
    const result = sandbox.run("start.mjs", completeMachine, { args: ["btx", "--out", "a folder"] });
    expect(result.stderr).toBe("");
    expect(result.status).toBe(0);
    expect(result.calls).toEqual(["pnpm install --frozen-lockfile", "turbo run build:native build"]);
    expect(JSON.parse(result.stdout.trim().split("\n").at(-1) ?? "")).toEqual([
      "btx",
      "quickstart",
      "--out",
      "a folder",
    ]);
    expect(readFileSync(join(sandbox.root, "probe.cc"), "utf8")).toContain("#include <span>");
  });

  const quickstarts = (stdout: string) => stdout.split("\n").filter((line) => line.startsWith("["));

  it("runs all quickstarts one after the other where no recipe is named", () => {
    const result = sandbox.run("start.mjs", completeMachine, { args: ["--device", "cpu"] });
    expect(result.status).toBe(0);
    expect(quickstarts(result.stdout)).toEqual([
      '["btx","quickstart","--device","cpu"]',
      '["contrastive-rlhf","quickstart","--device","cpu"]',
      '["synth2","quickstart","--device","cpu"]',
    ]);
  });

  it("ends with the status of the first quickstart that fails", () => {
    const result = sandbox.run("start.mjs", completeMachine, { env: { QUICKSTART_STATUS: "3" } });
    expect(result.status).toBe(3);
    expect(quickstarts(result.stdout)).toEqual(['["btx","quickstart"]']);
  });

  it("installs again only when the lockfile has changed", () => {
    sandbox.run("start.mjs", completeMachine);
    expect(sandbox.run("start.mjs", completeMachine).calls).toEqual(["turbo run build:native build"]);
    writeFileSync(join(sandbox.root, "pnpm-lock.yaml"), "lockfileVersion: '9.0'\n");
    expect(sandbox.run("start.mjs", completeMachine).calls).toContain("pnpm install --frozen-lockfile");
  });

  it("installs again where the last set-up was interrupted while it noted what it did", () => {
    sandbox.run("start.mjs", completeMachine);
    writeFileSync(join(sandbox.root, "node_modules", ".trefoil", "setup.json"), '{"lockfile":"3f');
    const result = sandbox.run("start.mjs", completeMachine);
    expect(result.stderr).toBe("");
    expect(result.calls).toEqual(["pnpm install --frozen-lockfile", "turbo run build:native build"]);
  });

  // Nobody may write to /sys, not even root.
  it.runIf(process.platform === "linux")("says so where it may not write", () => {
    mkdirSync(join(sandbox.root, "node_modules"), { recursive: true });
    symlinkSync("/sys", join(sandbox.root, "node_modules", ".trefoil"));
    const result = sandbox.run("start.mjs", completeMachine);
    expect(result.status).toBe(1);
    expect(result.stderr).toMatch(
      /^Set-up writes into .*, and could not \(E[A-Z]+: .*\): make room there, or use .*\.\n$/,
    );
  });

  it("fetches the pinned pnpm through npx once when PATH holds another", () => {
    const other = join(sandbox.root, "npx bin");
    const programs = {
      ...completeMachine,
      pnpm: "echo 1.0.0",
      npx: `echo "npx $2" >> "$CALLS"; mkdir -p "${other}"; cp "$TEMPLATE" "${other}/pnpm"; echo "PATH=${other}:$PATH"`,
    };
    // The pnpm that the stand-in for npx hands out.
    const template = join(sandbox.root, "pnpm.fake");
    writeFileSync(template, `#!/bin/sh\nPATH=/bin:$PATH\n${completeMachine.pnpm}\n`, { mode: 0o755 });
    const env = { TEMPLATE: template };
    const first = sandbox.run("start.mjs", programs, { env });
    expect(first.stderr).toBe("");
    expect(first.calls[0]).toMatch(/^npx --package=pnpm@\d+\.\d+\.\d+$/);
    expect(first.calls.slice(1)).toEqual(["pnpm install --frozen-lockfile", "turbo run build:native build"]);
    expect(sandbox.run("start.mjs", programs, { env }).calls).toEqual(["turbo run build:native build"]);
  });

  it("waits for another set-up of the same checkout, and for none that was killed", () => {
    const lock = join(sandbox.root, "node_modules", ".trefoil", "lock");
    mkdirSync(join(lock, ".."), { recursive: true });
    const run = (holder: number | undefined) => {
      writeFileSync(lock, String(holder));
      const { status, stdout } = sandbox.run("start.mjs", completeMachine, { args: ["btx"] });
      expect(status).toBe(0);
      expect(existsSync(lock)).toBe(false);
      return stdout;
    };
    spawn("sh", ["-c", 'sleep 1; echo ended > ended; rm "$0"', lock], { cwd: sandbox.root });
    expect(run(process.pid)).toContain(`for another set-up of this checkout (process ${process.pid}; `);
    expect(existsSync(join(sandbox.root, "ended"))).toBe(true);
    for (const gone of [spawnSync("true").pid, undefined]) expect(run(gone)).not.toContain("waiting");
  });

  it("shows the end of the log of a build that fails", () => {
    const result = sandbox.run("start.mjs", completeMachine, { env: { TURBO_STATUS: "1" } });
    expect(result.status).toBe(1);
    expect(result.stderr).toContain("kernel.cc:7: error: expected ';'");
    expect(result.stderr.trim().split("\n").at(-1)).toMatch(
      /^The build failed; the end of its log above \(.*build\.log\) says where\.$/,
    );
  });
});
