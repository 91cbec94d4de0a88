import type { Command } from "@trefoil/core";
import { baselinesCommand } from "./baselines.js";
import { chatCommand } from "./chat.js";
import { dpoCommand } from "./dpo.js";
import { evaluateCommand } from "./evaluate.js";
import { ppoCommand } from "./ppo.js";
import { quickstartCommand } from "./quickstart.js";
import { reproduceCommand } from "./reproduce.js";
import { rewardCommand } from "./reward.js";
import { sftCommand } from "./sft.js";

export const commands: readonly Command[] = [
  quickstartCommand,
  sftCommand,
  rewardCommand,
  baselinesCommand,
  ppoCommand,
  dpoCommand,
  evaluateCommand,
  chatCommand,
  reproduceCommand,
];
