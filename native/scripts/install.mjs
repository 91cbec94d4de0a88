// Compiles the engine when npm installs the packed package. In a clone set-up does it, through turbo; with TREFOIL_NATIVE_PATH
// the engine is built elsewhere.
import { existsSync } from "node:fs";

const clone = existsSync(new URL("../test", import.meta.url)); // not packed
if (!clone && !process.env.TREFOIL_NATIVE_PATH) await import("./build.mjs");
