import { createRequire } from "node:module";
import { runCli } from "./cli/index.js";
import { doctor } from "./doctor/command.js";
import { exportCommand } from "./export/command.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

process.exitCode = await runCli({
  name: "trefoil",
  version,
  summary: "What this machine offers the engine, and models as other programs read them.",
  commands: [doctor, exportCommand],
});
