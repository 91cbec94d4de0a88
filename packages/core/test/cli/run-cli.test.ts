import { Writable } from "node:stream";
import { expect, test, vi } from "vitest";
import { z } from "zod";
import { type CommandContext, defineCommand } from "../../src/cli/index.js";
import { defaultDevice } from "../../src/device/index.js";
import { TrefoilError } from "../../src/tensor/errors.js";
import { runInMemory } from "./run-in-memory.js";

function commandThat(run: (context: CommandContext) => Promise<unknown>) {
  return defineCommand({
    name: "work",
    summary: "Works.",
    schema: z.strictObject({ size: z.int().default(1) }),
    run: (_, context) => run(context),
  });
}

test("a command gets its typed configuration and writes results to stdout, progress to stderr", async () => {
  const command = defineCommand({
    name: "double",
    summary: "Doubles.",
    schema: z.strictObject({ size: z.int().default(1) }),
    async run({ size }, { stdout, progress, command: name, version }) {
      progress.log("working");
      stdout.write(`${name} ${version} ${size * 2}\n`);
    },
  });
  const argv = ["double", "--size", "21"];
  expect(await runInMemory([command], argv)).toEqual({ code: 0, stdout: "btx double 0.1.0 42\n", stderr: "working\n" });
  expect((await runInMemory([command], [...argv, "--quiet"])).stderr).toBe("");
});

test("an expected error is one paragraph with code and causes, no stack", async () => {
  const command = commandThat(async () => {
    const cause = new Error("disk says no", { cause: new Error("full.") });
    throw new TrefoilError("CHECKPOINT_WRITE", "cannot write the checkpoint; free some space", { cause });
  });
  const { code, stderr } = await runInMemory([command], ["work"]);
  expect(code).toBe(1);
  expect(stderr).toBe(
    "error: cannot write the checkpoint; free some space (CHECKPOINT_WRITE). Cause: disk says no. Cause: full.\n",
  );
  const debugged = await runInMemory([command], ["work"], { env: { TREFOIL_DEBUG: "1" } });
  expect(debugged.stderr).toMatch(
    /TrefoilError: cannot write[\s\S]*\n {4}at [\s\S]*Caused by: Error: disk says no\n {4}at /,
  );
});

test("so is one of the engine, and of what a schema refuses the first field is named", async () => {
  const engine = Object.assign(new Error('TREFOIL_THREADS is "x"'), { code: "TREFOIL_INVALID_ARGUMENT" });
  const of = async (error: Error) =>
    (await runInMemory([commandThat(async () => Promise.reject(error))], ["work"])).stderr;
  expect(await of(engine)).toBe('error: TREFOIL_THREADS is "x" (TREFOIL_INVALID_ARGUMENT).\n');
  expect(await of(Object.assign(engine, { code: "TREFOIL_INTERNAL" }))).toMatch(/^error: Error: [\s\S]*\n {4}at /);
  const cause = z.object({ a: z.number() }).safeParse({ a: "b" }).error;
  expect(await of(new TrefoilError("STORE", "the store is damaged", { cause }))).toBe(
    "error: the store is damaged (STORE). Cause: a: Invalid input: expected number, received string.\n",
  );
});

test("an array that V8 refuses for its size is one line; of any other length it is a bug", async () => {
  const { code, stderr } = await runInMemory([commandThat(async () => new Float32Array(1e14))], ["work"]);
  expect(code).toBe(1);
  expect(stderr).toBe(
    "error: more memory was asked for than Node can give; choose smaller batches or sizes. Cause: Invalid typed array length: 100000000000000.\n",
  );
  const negative = await runInMemory([commandThat(async () => new Float32Array(-1))], ["work"]);
  expect(negative.stderr).toMatch(/^error: RangeError: Invalid typed array length: -1\n {4}at /);
});

test("an unexpected error keeps its stack", async () => {
  const { code, stderr } = await runInMemory(
    [commandThat(async () => Promise.reject(new TypeError("x is not y")))],
    ["work"],
  );
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error: TypeError: x is not y\n {4}at /);
});

test("wrong usage exits with 2 and says where the help is", async () => {
  const command = commandThat(async () => {});
  expect(await runInMemory([command], ["wrok"])).toEqual({
    code: 2,
    stdout: "",
    stderr: "error: unknown command wrok; did you mean btx work?\n\nRun btx --help for the commands.\n",
  });
  const { code, stderr } = await runInMemory([command], ["work", "--sise", "3"]);
  expect(code).toBe(2);
  expect(stderr).toContain(
    "--sise: unknown flag\n    hint  did you mean --size?\n\nRun btx work --help for every flag.\n",
  );
  expect((await runInMemory([command], ["work", "--config"])).stderr).toContain("--config needs a file");
});

test("the first SIGINT aborts the signal and the run ends with 130; the second is fatal", async () => {
  const kill = vi.spyOn(process, "kill").mockReturnValue(true);
  const before = process.listenerCount("SIGINT");
  const command = commandThat(async ({ signal }) => {
    process.emit("SIGINT", "SIGINT");
    expect(signal.aborted).toBe(true);
    expect(kill).not.toHaveBeenCalled();
    process.emit("SIGINT", "SIGINT");
    expect(kill).toHaveBeenCalledExactlyOnceWith(process.pid, "SIGINT");
    expect(process.listenerCount("SIGINT")).toBe(before);
  });
  const { code, stderr } = await runInMemory([command], ["work"]);
  kill.mockRestore();
  expect(code).toBe(130);
  expect(stderr).toBe("warning: SIGINT: stopping after this step; once more to stop at once\n");
  expect(process.listenerCount("SIGINT")).toBe(before);
});

test("a wait cut short by the abort is no error, a failure after it is", async () => {
  const aborted = commandThat(async ({ signal }) => {
    process.emit("SIGTERM", "SIGTERM");
    signal.throwIfAborted();
  });
  expect((await runInMemory([aborted], ["work"])).code).toBe(143);
  const failed = commandThat(async () => {
    process.emit("SIGINT", "SIGINT");
    throw new TrefoilError("CHECKPOINT_WRITE", "disk full");
  });
  expect((await runInMemory([failed], ["work"])).code).toBe(1);
});

test("--device opens the device before the command runs", async () => {
  const command = commandThat(async ({ stdout }) => stdout.write(`on ${defaultDevice().name}\n`));
  const env: NodeJS.ProcessEnv = {};
  expect((await runInMemory([command], ["work", "--device", "cpu"], { env })).stdout).toBe("on cpu:0\n");
  expect(env.TREFOIL_DEVICE).toBe("cpu");
  const missing = await runInMemory([command], ["work", "--device=cuda:9999"]);
  expect(missing).toMatchObject({ code: 1, stdout: "" });
  expect(missing.stderr).toMatch(/cuda:9999/);
  expect(await runInMemory([command], ["work", "--device"])).toMatchObject({ code: 2 });
});

test("--precision opens a device of that precision", async () => {
  const command = commandThat(async ({ stdout }) => stdout.write(`${defaultDevice().info.isa}\n`));
  const env: NodeJS.ProcessEnv = {};
  expect((await runInMemory([command], ["work", "--precision=f32"], { env })).stdout).toMatch(/^\w+\n$/);
  expect(env).toEqual({ TREFOIL_PRECISION: "f32" });
  const rounded = await runInMemory([command], ["work", "--device", "cpu", "--precision", "bf16-products"], { env });
  expect(rounded.stdout).toMatch(/^\w+, bf16 by /);
  expect(env).toEqual({ TREFOIL_DEVICE: "cpu", TREFOIL_PRECISION: "bf16-products" });
  const refused = await runInMemory([command], ["work", "--device=cpu", "--precision=bf16"]);
  expect(refused).toMatchObject({ code: 1, stderr: expect.stringMatching(/none of the CPU's.*"bf16-products"/s) });
  for (const flags of [["--precision"], ["--precision", "half"], ["--precision="]])
    expect(await runInMemory([command], ["work", ...flags])).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/--precision is one of f32, bf16-products, bf16, not/),
    });
});

/** A stream whose writes fail, as those to a full disk or a closed pipe do. */
const failing = (code: string) =>
  new Writable({ write: (_chunk, _encoding, done) => done(Object.assign(new Error(`${code}: write`), { code })) });

test("output that cannot be written is one line and exit code 1; a pipe that the reader closed is no error", async () => {
  const command = commandThat(async ({ stdout }) => stdout.write("done\n"));
  for (const argv of [["--help"], ["work", "--help"], ["work"], ["--version"]]) {
    expect(await runInMemory([command], argv, { stdout: failing("ENOSPC") })).toMatchObject({
      code: 1,
      stderr: "error: cannot write to standard output (OUTPUT_WRITE). Cause: ENOSPC: write.\n",
    });
    expect(await runInMemory([command], argv, { stdout: failing("EPIPE") })).toMatchObject({ code: 0, stderr: "" });
  }
});

test("a stderr that cannot be written changes neither the work nor the exit code", async () => {
  const command = commandThat(async ({ stdout, progress }) => {
    progress.log("working");
    await new Promise((resolve) => setImmediate(resolve));
    stdout.write("done\n");
  });
  for (const code of ["ENOSPC", "EPIPE"]) {
    const stderr = failing(code);
    expect(await runInMemory([command], ["work"], { stderr })).toMatchObject({ code: 0, stdout: "done\n" });
    expect(await runInMemory([command], ["wrok"], { stderr: failing(code) })).toMatchObject({ code: 2 });
  }
});

test("a stdout that calls nobody back, as one that a test has replaced, is not waited for", async () => {
  const stdout = failing("ENOSPC");
  const write = vi.spyOn(stdout, "write").mockImplementation(() => true);
  const command = commandThat(async (context) => context.stdout.write("done\n"));
  expect(await runInMemory([command], ["work"], { stdout })).toMatchObject({ code: 0 });
  expect(write).toHaveBeenCalledWith("done\n");
});
