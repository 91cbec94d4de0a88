import { Writable } from "node:stream";
import { type CliOptions, type Command, runCli } from "../../src/cli/index.js";

class MemoryStream extends Writable {
  text = "";
  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

/** Runs a command line against streams in memory. */
export async function runInMemory(
  commands: readonly Command[],
  argv: readonly string[],
  options: Partial<CliOptions> = {},
) {
  const stdout = new MemoryStream();
  const stderr = new MemoryStream();
  const setting = { name: "btx", version: "0.1.0", summary: "Branch-Train-MiX", env: {} };
  const code = await runCli({ ...setting, commands, argv, stdout, stderr, ...options });
  return { code, stdout: stdout.text, stderr: stderr.text };
}
