import { createRequire } from "node:module";
import { runCli } from "@trefoil/core";
import { commands } from "./commands/index.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

process.exitCode = await runCli({
  name: "contrastive-rlhf",
  version,
  summary: "RLHF with contrastive rewards: from preference data to a measured win.",
  commands,
});
