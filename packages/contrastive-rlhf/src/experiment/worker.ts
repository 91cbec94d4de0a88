// Trains the arms of one unit for the process that has started this one.
import { runUnit, type UnitAnswer, type UnitRequest } from "./run.js";

const answer = (message: UnitAnswer) => new Promise<void>((resolve) => process.send!(message, () => resolve()));

// Ctrl-C reaches all processes of a terminal: the parent ends this one, whose unfinished arm is trained again.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(1));
process.once("message", async (request: UnitRequest) => {
  try {
    await runUnit(request, {}, (row) => answer({ row }));
    await answer({ finished: true });
  } catch (error) {
    await answer({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
  process.disconnect();
});
