import { stripVTControlCharacters } from "node:util";

/** 1.234, 12.34k, 5.6e-5: at most `digits` significant digits, with k, M, G above ten thousand. */
export function formatNumber(value: number, digits: number): string {
  if (!Number.isFinite(value)) return String(value);
  const magnitude = Math.abs(value);
  if (magnitude >= 10_000) {
    const units = ["k", "M", "G", "T", "P"];
    const power = Math.min(units.length, Math.floor(Math.log10(magnitude) / 3));
    return trimZeros((value / 1000 ** power).toPrecision(digits)) + units[power - 1];
  }
  if (magnitude !== 0 && magnitude < 1e-3) return value.toExponential(Math.max(0, digits - 3));
  if (Number.isInteger(value)) return String(value);
  return magnitude >= 10 ** (digits - 1) ? String(Math.round(value)) : value.toPrecision(digits);
}

function trimZeros(text: string): string {
  return text.includes("e") ? String(Number(text)) : text.replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

/** 850ms, 12.3s, 4m 05s, 2h 10m, 3d 4h. */
export function formatDuration(milliseconds: number): string {
  if (!Number.isFinite(milliseconds)) return "?";
  const seconds = milliseconds / 1000;
  if (seconds < 1) return `${Math.round(milliseconds)}ms`;
  if (seconds < 59.95) return `${seconds.toFixed(1)}s`;
  const whole = Math.round(seconds);
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${String(whole % 60).padStart(2, "0")}s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)}h ${String(minutes % 60).padStart(2, "0")}m`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)}d ${hours % 24}h`;
}

/** Columns that `text` takes on a terminal: escape codes none, East Asian wide characters and emoji two. */
export function displayWidth(text: string): number {
  let width = 0;
  for (const character of stripVTControlCharacters(text)) {
    if (/\p{Mark}|\p{Cf}/u.test(character)) continue;
    width += isWide(character.codePointAt(0) as number) ? 2 : 1;
  }
  return width;
}

function isWide(codePoint: number): boolean {
  return (
    (codePoint >= 0x1100 && codePoint <= 0x115f) ||
    (codePoint >= 0x2e80 && codePoint <= 0xa4cf) ||
    (codePoint >= 0xac00 && codePoint <= 0xd7a3) ||
    (codePoint >= 0xf900 && codePoint <= 0xfaff) ||
    (codePoint >= 0xfe30 && codePoint <= 0xfe6f) ||
    (codePoint >= 0xff00 && codePoint <= 0xff60) ||
    (codePoint >= 0xffe0 && codePoint <= 0xffe6) ||
    (codePoint >= 0x1f300 && codePoint <= 0x1faff) ||
    (codePoint >= 0x20000 && codePoint <= 0x3fffd)
  );
}

/** Joins as many leading parts as fit in `width` columns; a first part that is too long is cut with an ellipsis. */
export function fitLine(parts: readonly string[], width: number): string {
  let line = "";
  let used = 0;
  for (const part of parts) {
    const separator = line === "" ? "" : "  ";
    const needed = displayWidth(part) + separator.length;
    if (used + needed > width) return line === "" ? cut(part, width) : line;
    line += separator + part;
    used += needed;
  }
  return line;
}

function cut(text: string, width: number): string {
  let kept = "";
  for (const character of stripVTControlCharacters(text)) {
    if (displayWidth(kept + character) > width - 1) break;
    kept += character;
  }
  return `${kept}…`;
}
