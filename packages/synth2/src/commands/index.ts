import type { Command } from "@trefoil/core";
import { prepareCommand } from "./prepare.js";

export const commands: readonly Command[] = [prepareCommand];
