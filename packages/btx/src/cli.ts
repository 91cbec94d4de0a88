import { createRequire } from "node:module";
import { runCli } from "@trefoil/core";
import { commands } from "./commands/index.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

process.exitCode = await runCli({
  name: "btx",
  version,
  summary: "Branch-Train-MiX: fine-tuned checkpoints of one seed become one mixture of experts.",
  commands,
});
