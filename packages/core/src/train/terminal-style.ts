import { styleText } from "node:util";

type Format = "bold" | "dim" | "red" | "green" | "yellow" | "cyan";
export type Style = (format: Format, text: string) => string;

interface TerminalLike {
  readonly isTTY?: boolean;
}

/** True where a stream is a terminal that can redraw a line. */
export function isTerminal(stream: TerminalLike, env: NodeJS.ProcessEnv = process.env): boolean {
  return stream.isTTY === true && env.TERM !== "dumb";
}

/** Colours text when `stream` is a terminal and NO_COLOR is unset or empty (https://no-color.org). */
export function createStyle(stream: TerminalLike, env: NodeJS.ProcessEnv = process.env): Style {
  const coloured = isTerminal(stream, env) && !env.NO_COLOR;
  // The decision is ours: newer Node would look at stdout, though the text may go to stderr.
  return coloured ? (format, text) => styleText(format, text, { validateStream: false }) : (_, text) => text;
}
