import { type DomainDocument, inHashOrder, SeenTexts } from "./documents.js";
import { findFiles, pathInPackage, readText } from "./files.js";

const sourceFile = /(?<!\.min)\.([cm]?[jt]s|[jt]sx)$/;
/** Longer lines on average: minified or generated. */
const maxMeanLine = 100;
const maxLine = 500;
const minCharacters = 300;

/** TypeScript and JavaScript sources under `roots`, up to `maxBytes` of them, without licence comments at the top. */
export async function findCode(roots: readonly string[], maxBytes: number): Promise<DomainDocument[]> {
  const paths = await findFiles(roots, (name) => sourceFile.test(name));
  const documents: DomainDocument[] = [];
  const [texts, builds] = [new SeenTexts(), new SeenTexts()];
  let bytes = 0;
  for (const path of inHashOrder(paths, pathInPackage)) {
    if (bytes >= maxBytes) break;
    const text = await readText(path);
    const code = text === undefined ? "" : withoutHeader(text);
    // `util.ts`, `dist/util.js` and `cjs/util.cjs` say the same: one of them is enough.
    if (!isReadableCode(code) || !builds.add(buildKey(path)) || !texts.add(code)) continue;
    documents.push({ key: nameKey(path), text: code });
    bytes += Buffer.byteLength(code);
  }
  return documents;
}

/** Whether a source was written, or printed, to be read: not minified, not a table of data. */
export function isReadableCode(text: string): boolean {
  const lines = text.split("\n");
  if (text.length < minCharacters || text.length / lines.length > maxMeanLine) return false;
  return lines.every((line) => line.length <= maxLine);
}

function withoutHeader(text: string): string {
  const body = text.replace(/^(?:#![^\n]*\n|\s+|["']use strict["'];?|\/\*[\s\S]*?\*\/|\/\/[^\n]*\n)+/, "");
  return `${body.replace(/\n\/\/# sourceMappingURL=[^\n]*\s*$/, "").trim()}\n`;
}

/** The path without what differs between builds of one source. */
function buildKey(path: string): string {
  const parts = pathInPackage(path)
    .replace(/(\.d)?\.[cm]?[jt]sx?$/, "")
    .split("/");
  return parts.filter((part) => !/^(src|dist|lib|esm|cjs|mjs|build|es\d*|commonjs|module)$/.test(part)).join("/");
}

/** Package and file name: versions of one file (`v3/util.ts`, `v4/util.ts`) are near copies. */
function nameKey(path: string): string {
  const parts = pathInPackage(path).split("/");
  const name = parts.at(-1)!.replace(/(\.d)?\.[cm]?[jt]sx?$/, "");
  return `${parts[0]!.startsWith("@") ? `${parts[0]}/${parts[1]}` : parts[0]} ${name}`;
}
