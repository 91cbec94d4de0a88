/** What is wrong with the structure of a JSON text. */
export interface JsonFault {
  kind: "duplicate" | "depth" | "character" | "syntax";
  message: string;
  /** The repeated key. */
  key?: string;
}

/**
 * Looks for what `JSON.parse` lets pass: a key twice in one object, and nesting deeper than `maxDepth`.
 * With `integersOnly`, anything outside strings but brackets, commas, colons, white space and digits is a fault too, so
 * negative and fractional numbers, exponents, `true`, `false` and `null` are refused as written.
 * Syntax itself is left to `JSON.parse`, run afterwards.
 */
export function findJsonFault(
  text: string,
  options: { maxDepth: number; integersOnly?: boolean },
): JsonFault | undefined {
  const open: (Set<string> | undefined)[] = []; // keys of each open object; undefined: an array
  for (let i = 0; i < text.length; i++) {
    const c = text.charCodeAt(i);
    if (c === 0x22 /* " */) {
      const start = i;
      for (i++; i < text.length && text.charCodeAt(i) !== 0x22; i++) if (text.charCodeAt(i) === 0x5c) i++;
      if (i >= text.length) return { kind: "syntax", message: "a string does not end" };
      let next = i + 1;
      while (isSpace(text.charCodeAt(next))) next++;
      const keys = open.at(-1);
      if (text.charCodeAt(next) !== 0x3a /* : */ || !keys) continue;
      let key: string;
      try {
        key = JSON.parse(text.slice(start, i + 1)) as string; // escapes: "\u0061" and "a" are the same key
      } catch {
        return { kind: "syntax", message: `malformed string at character ${start}` };
      }
      if (keys.has(key)) return { kind: "duplicate", message: `the key ${JSON.stringify(key)} occurs twice`, key };
      keys.add(key);
    } else if (c === 0x7b /* { */ || c === 0x5b /* [ */) {
      open.push(c === 0x7b ? new Set() : undefined);
      if (open.length > options.maxDepth)
        return { kind: "depth", message: `nested deeper than ${options.maxDepth} levels` };
    } else if (c === 0x7d || c === 0x5d) {
      open.pop();
    } else if (options.integersOnly && !isSpace(c) && c !== 0x2c && c !== 0x3a && (c < 0x30 || c > 0x39)) {
      const found = /^[^\s,:[\]{}"]{1,40}/.exec(text.slice(i, i + 40))?.[0] ?? text[i];
      return {
        kind: "character",
        message: `"${found}" at character ${i}: only strings and unsigned integers may stand there`,
      };
    }
  }
  return undefined;
}

function isSpace(c: number): boolean {
  return c === 0x20 || c === 0x0a || c === 0x0d || c === 0x09;
}
