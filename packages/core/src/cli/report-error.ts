import { reasonOf } from "../io/reason.js";
import { isExpected } from "../tensor/errors.js";
import type { Style } from "../train/terminal-style.js";
import { UsageError } from "./errors.js";

/**
 * An error as the user reads it. Errors raised on purpose, and those of the operating system, are one paragraph with
 * code and causes; anything else is a bug and keeps its stack. TREFOIL_DEBUG=1 shows every stack.
 */
export function formatError(error: unknown, style: Style, env: NodeJS.ProcessEnv = process.env): string {
  const label = style("red", "error:");
  if (!(error instanceof Error)) return `${label} ${String(error)}\n`;
  if (env.TREFOIL_DEBUG !== "1" && isTooLarge(error)) {
    return `${label} more memory was asked for than Node can give; choose smaller batches or sizes. Cause: ${error.message}.\n`;
  }
  if (env.TREFOIL_DEBUG === "1" || !isExpected(error)) return `${label} ${stackOf(error)}\n`;
  if (error instanceof UsageError && error.cause === undefined) return `${label} ${error.message}\n`;
  const code = "code" in error ? ` (${String(error.code)})` : "";
  return `${label} ${withoutStop(error.message)}${code}.${causes(error)}\n`;
}

/** What V8 says of arrays of absurd lengths. A small or negative one is a bug. */
function isTooLarge(error: Error): boolean {
  return (
    error instanceof RangeError &&
    /^(Array buffer allocation failed|Invalid typed array length: \d{8,})$/.test(error.message)
  );
}

/** What the message does not say already. */
function causes(error: Error): string {
  let text = "";
  let { cause } = error;
  // A cause may be its own ancestor; five levels say enough.
  for (let depth = 0; cause !== undefined && depth < 5; depth++) {
    const message = withoutStop(reasonOf(cause));
    if (!error.message.includes(message)) text += ` Cause: ${message}.`;
    cause = cause instanceof Error ? cause.cause : undefined;
  }
  return text;
}

function stackOf(error: Error): string {
  const stack = error.stack ?? `${error.name}: ${error.message}`;
  return error.cause instanceof Error ? `${stack}\nCaused by: ${stackOf(error.cause)}` : stack;
}

function withoutStop(message: string): string {
  return message.replace(/\.$/, "");
}
