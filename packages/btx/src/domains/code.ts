import type { Document } from "./documents.js";
import { findFiles, readText } from "./files.js";

const sourceFile = /(?<!\.min)\.([cm]?[jt]s|[jt]sx)$/;
/** Longer lines on average: minified or generated. */
const maxMeanLine = 100;
const maxLine = 1000;

/** Whether a source file was written to be read. */
export function isReadableCode(text: string): boolean {
  const lines = text.split("\n");
  if (text.length < 200 || text.length / lines.length > maxMeanLine) return false;
  return lines.every((line) => line.length <= maxLine) && !text.includes("sourceMappingURL=data:");
}

/** TypeScript and JavaScript sources under `roots`, without comments at the top: licences repeat in every file. */
export async function findCode(roots: readonly string[]): Promise<Document[]> {
  const documents: Document[] = [];
  for (const path of await findFiles(roots, (name) => sourceFile.test(name))) {
    const text = await readText(path);
    if (text === undefined) continue;
    const code = withoutHeader(text);
    if (isReadableCode(code)) documents.push({ source: path, text: code });
  }
  return documents;
}

function withoutHeader(text: string): string {
  return `${text.replace(/^(?:#![^\n]*\n|\s+|\/\*[\s\S]*?\*\/|\/\/[^\n]*\n)+/, "").trim()}\n`;
}
