import { TrefoilError } from "../tensor/errors.js";

/** The command line or the config file is wrong; the process exits with 2. */
export class UsageError extends TrefoilError {}
