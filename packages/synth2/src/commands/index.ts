import type { Command } from "@trefoil/core";

export const commands: readonly Command[] = [];
