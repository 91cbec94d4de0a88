// Runs as a process of its own, where only what is built can be imported.
import { serveUnits } from "../../dist/index.js";

serveUnits(async ({ unit, known }, _signal, emit) => {
  if (unit === 13) throw new Error("unit 13 breaks");
  for (const arm of ["a", "b"]) {
    if (!known.includes(`${unit} ${arm}`)) await emit({ unit, arm, threads: process.env.TREFOIL_THREADS });
  }
  return true;
});
