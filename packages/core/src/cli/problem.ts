import type { JsonValue } from "./fields.js";

/** One thing wrong with a configuration. */
export interface Problem {
  readonly path: readonly string[];
  readonly problem: string;
  /** The value found, when there is one. */
  readonly got?: JsonValue | undefined;
  /** Where it came from: a flag, or a file and line. */
  readonly origin?: string | undefined;
  readonly hint?: string | undefined;
}
