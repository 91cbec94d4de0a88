import { createRequire } from "node:module";
import { runCli } from "@trefoil/core";
import { commands } from "./commands/index.js";

const { version } = createRequire(import.meta.url)("../package.json") as { version: string };

process.exitCode = await runCli({
  name: "synth2",
  version,
  summary: "Synthetic captions and image embeddings that train a vision-language model.",
  commands,
});
