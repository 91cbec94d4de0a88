import type { Command } from "@trefoil/core";
import { averageCommand } from "./average.js";
import { branchCommand } from "./branch.js";
import { ensembleCommand } from "./ensemble.js";
import { evaluateCommand } from "./evaluate.js";
import { finetuneCommand } from "./finetune.js";
import { generateCommand } from "./generate.js";
import { mixCommand } from "./mix.js";
import { quickstartCommand } from "./quickstart.js";
import { reproduceCommand } from "./reproduce.js";
import { routingCommand } from "./routing.js";
import { seedCommand } from "./seed.js";
import { statusCommand } from "./status.js";
import { upcycleCommand } from "./upcycle.js";

export const commands: readonly Command[] = [
  quickstartCommand,
  seedCommand,
  branchCommand,
  statusCommand,
  mixCommand,
  upcycleCommand,
  averageCommand,
  ensembleCommand,
  finetuneCommand,
  evaluateCommand,
  routingCommand,
  generateCommand,
  reproduceCommand,
];
