import { TrefoilError } from "@trefoil/native";
import { z } from "zod";
import { defineCommand } from "../cli/command.js";
import { examine, formatReport } from "./report.js";

/** `trefoil doctor`: what the engine finds on this machine, and what to do about what it does not find. */
export const doctor = defineCommand({
  name: "doctor",
  summary: "Show Node, engine, CPU, driver and devices, the libraries tried, and what to do.",
  examples: ["trefoil doctor", "trefoil doctor --json"],
  schema: z.strictObject({
    json: z.boolean().default(false).describe("Print the report as JSON."),
  }),
  async run({ json }, { stdout, version }) {
    const report = examine(version);
    stdout.write(json ? `${JSON.stringify(report, null, 2)}\n` : formatReport(report));
    if (report.engine.error !== undefined)
      throw new TrefoilError("TREFOIL_ENGINE", "the engine does not load; the report above says what to do");
  },
});
