// npm test: sets everything up and runs every test. Packages whose inputs have not changed keep their recorded results.
import { main, root, setUp, turbo } from "./setup/index.mjs";
import { runInteractive } from "./setup/phase.mjs";
import { clearResults, readResults } from "./test-results.mjs";

await main(async () => {
  const env = await setUp();
  clearResults(root);
  // One package at a time: some tests watch the clock.
  const args = turbo([
    "build:cuda",
    "test:native",
    "test",
    "--concurrency=1",
    "--continue=dependencies-successful",
    "--output-logs=new-only",
  ]);
  const status = await runInteractive(process.execPath, args, { cwd: root, env });
  const { passed, failed, skipped } = readResults(root);
  console.log(`tests: ${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ""}`);
  return status === 0 && failed > 0 ? 1 : status;
});
