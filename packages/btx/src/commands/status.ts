import { defineCommand, terminalTable } from "@trefoil/core";
import { z } from "zod";
import { type BranchStatus, branchStatus } from "../stages/index.js";
import { folder } from "./fields.js";

export const statusCommand = defineCommand({
  name: "status",
  summary: "Where each branch is: waiting, running, failed, dead, stopped or done.",
  description:
    "Reads the run directory of btx branch alone, from any machine that sees it. dead: the process was killed; a process on another machine counts as running while it holds the run's lock.",
  examples: ["btx status --run experts-run", "btx status --run experts-run --json"],
  schema: z.strictObject({
    run: folder("Run directory of the branches: the output's name and -run, unless another was named."),
    json: z.boolean().default(false).describe("Print JSON instead of a table."),
  }),
  run: async ({ run, json }, { stdout }) => {
    const branches = await branchStatus(run);
    stdout.write(json ? `${JSON.stringify(branches, null, 2)}\n` : statusTable(branches));
  },
});

function statusTable(branches: readonly BranchStatus[]): string {
  const rows = branches.map(({ domain, state, step, steps, loss, process, reason }) => [
    domain,
    state,
    `${step}/${steps}`,
    loss === undefined ? null : loss.toFixed(4),
    process ? `${process.pid} on ${process.host}` : null,
    reason ?? null,
  ]);
  return terminalTable({ columns: ["branch", "state", "step", "loss", "process", "reason"], rows });
}
