// Runs the arms of one seed for the process that has started this one.
import { serveUnits } from "@trefoil/core";
import { runSeed } from "./run.js";

serveUnits(runSeed);
