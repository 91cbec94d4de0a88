// Runs the C++ tests and leaves their counts in test-results/native.json.
import { spawn } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const native = dirname(dirname(fileURLToPath(import.meta.url)));
const program = join(native, process.argv[2] ?? "build", "trefoil_tests");

const child = spawn(program, process.argv.slice(3), { stdio: ["ignore", "pipe", "inherit"] });
let output = "";
child.stdout.setEncoding("utf8").on("data", (text) => {
  output += text;
  process.stdout.write(text);
});
child.on("error", (error) => {
  console.error(
    `${program} did not start (${error.message}): build it with \`pnpm --filter @trefoil/native build:native\`.`,
  );
  process.exitCode = 1;
});
child.on("close", (code, signal) => {
  const counts = /^(\d+) passed, (\d+) failed$/m.exec(output);
  const passed = Number(counts?.[1] ?? 0);
  // A crash leaves no summary line, and a run of no tests proves nothing: each is one failure.
  const failed = Math.max(Number(counts?.[2] ?? 0), code === 0 ? 0 : 1);
  if (signal) console.error(`trefoil_tests was ended by ${signal}`);
  mkdirSync(join(native, "test-results"), { recursive: true });
  writeFileSync(join(native, "test-results", "native.json"), `${JSON.stringify({ passed, failed })}\n`);
  process.exitCode = failed === 0 ? 0 : 1;
});
