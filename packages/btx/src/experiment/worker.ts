// Runs the arms of one seed for the process that has started this one.
import { runSeed, type SeedAnswer, type SeedRequest } from "./run.js";

const answer = (message: SeedAnswer) => new Promise<void>((resolve) => process.send!(message, () => resolve()));

// Ctrl-C reaches all processes of a terminal: the parent ends this one, whose unfinished arm is run again.
process.on("SIGINT", () => {});
process.on("disconnect", () => process.exit(1));
process.once("message", async (request: SeedRequest) => {
  try {
    await runSeed(request, undefined, (row) => answer({ row }));
    await answer({ finished: true });
  } catch (error) {
    await answer({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
  process.disconnect();
});
