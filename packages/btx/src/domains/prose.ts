import { type DomainDocument, inHashOrder, SeenTexts } from "./documents.js";
import { findFiles, pathInPackage, readText } from "./files.js";

const minParagraph = 60;

/**
 * Markdown under `roots` as plain paragraphs, up to `maxBytes`. Licences and change logs are left out: they are lists,
 * and repeat. Packages of one family share paragraphs: each is kept once, so that none is both trained on and held out.
 */
export async function findProse(roots: readonly string[], maxBytes: number): Promise<DomainDocument[]> {
  const isDocument = (name: string) =>
    /\.(md|mdx|markdown)$/i.test(name) && !/licen[cs]e|change|history|third.?party|notice/i.test(name);
  const paths = await findFiles(roots, isDocument);
  const paragraphs = new SeenTexts();
  const documents: DomainDocument[] = [];
  let bytes = 0;
  for (const path of inHashOrder(paths, pathInPackage)) {
    if (bytes >= maxBytes) break;
    const text = await readText(path);
    const fresh = text === undefined ? [] : paragraphsOf(text).filter((paragraph) => paragraphs.add(paragraph));
    if (fresh.length === 0) continue;
    const prose = `${fresh.join("\n\n")}\n`;
    documents.push({ key: pathInPackage(path), text: prose });
    bytes += Buffer.byteLength(prose);
  }
  return documents;
}

/** The paragraphs and list items of running text in a Markdown document; of links only their text, no other markup. */
export function paragraphsOf(markdown: string): string[] {
  return withoutCode(markdown.replace(/^---\n[\s\S]*?\n---\n/, "").replace(/<!--[\s\S]*?-->/g, ""))
    .replace(/\n(?=\s*([-*+]|\d+[.)]) )/g, "\n\n")
    .split(/\n\s*\n/)
    .filter(isRunningText)
    .map(plainText)
    .filter(isSentence);
}

/** Drops fenced code; a fence that never closes takes the rest, as in CommonMark. */
function withoutCode(markdown: string): string {
  const kept: string[] = [];
  let fence: string | undefined;
  for (const line of markdown.split("\n")) {
    const marker = /^\s*(`{3,}|~{3,})/.exec(line)?.[1];
    if (fence === undefined) {
      fence = marker;
      kept.push(marker === undefined ? line : "");
    } else if (marker?.startsWith(fence) && line.trim() === marker) fence = undefined;
  }
  return kept.join("\n");
}

/** Not a heading, table, quotation, indented code, HTML, badge, import or link definition. */
function isRunningText(block: string): boolean {
  const marked = /^(\s*(#|\||>|<|!\[|\[!\[|\[[^\]]+\]:|import |export )| {4}(?![-*+] )|\t)/.test(block);
  return !marked && !/^[=-]{3,}$/m.test(block) && !block.includes("|--");
}

function plainText(block: string): string {
  return block
    .replace(/^\s*([-*+]|\d+[.)])\s+(\[[ x]\]\s+)?/i, "")
    .replace(/!\[[^\]]*\]\([^)]*\)/g, "")
    .replace(/\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])/g, "$1")
    .replace(/<[^>]+>/g, "")
    .replace(/\*\*([^*]+)\*\*|__([^_]+)__/g, "$1$2")
    .replace(/https?:\/\/\S+/g, "")
    .replace(/\s+/g, " ")
    .trim();
}

/** Mostly letters, with words one after the other. */
function isSentence(text: string): boolean {
  const letters = text.match(/[A-Za-z ,.]/g)?.length ?? 0;
  return text.length >= minParagraph && letters / text.length > 0.85 && /[a-z] [a-z]+ [a-z]/.test(text);
}
