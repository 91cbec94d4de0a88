import type { Command } from "@trefoil/core";
import { generateCommand } from "./generate.js";
import { generatorCommand } from "./generator.js";
import { prepareCommand } from "./prepare.js";
import { quickstartCommand } from "./quickstart.js";
import { synthesizeCommand } from "./synthesize.js";
import { tokenizerCommand } from "./tokenizer.js";

export const commands: readonly Command[] = [
  prepareCommand,
  tokenizerCommand,
  generatorCommand,
  generateCommand,
  synthesizeCommand,
  quickstartCommand,
];
