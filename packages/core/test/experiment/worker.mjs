// Runs as a process of its own, where only what is built can be imported.
import { serveUnits, TrefoilError } from "../../dist/index.js";

serveUnits(async ({ unit, known }, _signal, emit) => {
  if (unit === 13) throw new Error("unit 13 breaks");
  if (unit === 14)
    throw new TrefoilError("TREFOIL_DISK", "unit 14 has no room", { cause: new Error("the disk is full") });
  if (unit === 15) await new Promise((resolve) => setTimeout(resolve, 60_000));
  for (const arm of ["a", "b"]) {
    if (!known.includes(`${unit} ${arm}`)) await emit({ unit, arm, threads: process.env.TREFOIL_THREADS });
  }
  return true;
});
