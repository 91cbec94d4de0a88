// Trains the arms of one unit for the process that has started this one.
import { serveUnits } from "@trefoil/core";
import { runUnit } from "./run.js";

serveUnits(runUnit);
