import { createRequire } from "node:module";
import { runCli } from "./cli/index.js";
import { doctor } from "./doctor/command.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

process.exitCode = await runCli({
  name: "trefoil",
  version,
  summary: "The Trefoil engine of this machine.",
  commands: [doctor],
});
