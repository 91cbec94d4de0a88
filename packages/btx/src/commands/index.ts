import type { Command } from "@trefoil/core";
import { branchCommand } from "./branch.js";
import { evaluateCommand } from "./evaluate.js";
import { finetuneCommand } from "./finetune.js";
import { generateCommand } from "./generate.js";
import { mixCommand } from "./mix.js";
import { quickstartCommand } from "./quickstart.js";
import { seedCommand } from "./seed.js";

export const commands: readonly Command[] = [
  quickstartCommand,
  seedCommand,
  branchCommand,
  mixCommand,
  finetuneCommand,
  evaluateCommand,
  generateCommand,
];
