import type { Document } from "./documents.js";
import { findFiles, readText } from "./files.js";

const minParagraph = 80;

/** Markdown under `roots` as plain paragraphs. Licences and change logs are left out: they are lists, and repeat. */
export async function findProse(roots: readonly string[]): Promise<Document[]> {
  const isProse = (name: string) => /\.(md|mdx|markdown)$/i.test(name) && !/licen[cs]e|changelog|third.?party|notice/i.test(name);
  const seen = new Set<string>();
  const documents: Document[] = [];
  for (const path of await findFiles(roots, isProse)) {
    const text = await readText(path);
    if (text === undefined) continue;
    // Packages of one family share paragraphs: each is kept once, so that none is both trained on and held out.
    const fresh = paragraphsOf(text).filter((paragraph) => !seen.has(paragraph));
    for (const paragraph of fresh) seen.add(paragraph);
    if (fresh.length > 0) documents.push({ source: path, text: `${fresh.join("\n\n")}\n` });
  }
  return documents;
}

/** The paragraphs of running text in a Markdown document, links as their text, nothing else of the markup. */
export function paragraphsOf(markdown: string): string[] {
  const blocks = markdown
    .replace(/^---\n[\s\S]*?\n---\n/, "")
    .replace(/^ {0,3}(`{3,}|~{3,})[^\n]*\n[\s\S]*?(\n {0,3}\1|$(?![\s\S]))/gm, "\n\n")
    .replace(/<!--[\s\S]*?-->/g, "")
    .split(/\n\s*\n/);
  return blocks.filter(isRunningText).map(plainText).filter(isSentence);
}

/** Not a heading, table, list, quotation, indented code, HTML, badge or link definition. */
function isRunningText(block: string): boolean {
  return !/^(\s*(#|\||[-*+] |\d+[.)] |>|<|!\[|\[!\[|\[[^\]]+\]:|import |export )| {4}|\t)/.test(block) && !/^[=-]{3,}$/m.test(block) && !block.includes("|--");
}

function plainText(block: string): string {
  return block
    .replace(/!\[[^\]]*\]\([^)]*\)/g, "")
    .replace(/\[([^\]]*)\](\([^)]*\)|\[[^\]]*\])/g, "$1")
    .replace(/<[^>]+>/g, "")
    .replace(/[*_]{2,3}([^*_]+)[*_]{2,3}/g, "$1")
    .replace(/https?:\/\/\S+/g, "")
    .replace(/\s+/g, " ")
    .trim();
}

function isSentence(text: string): boolean {
  const letters = text.match(/[A-Za-z ,.]/g)?.length ?? 0;
  return text.length >= minParagraph && letters / text.length > 0.85 && /[a-z] [a-z]/.test(text);
}
