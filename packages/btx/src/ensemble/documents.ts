import { evaluationBatches, type TokenFile, type Tokenizer } from "@trefoil/core";
import { TfIdf } from "./tf-idf.js";

/** Windows of a file as text, spread evenly over it. */
export function textOfWindows(
  file: TokenFile,
  tokenizer: Tokenizer,
  { sequence, windows }: { sequence: number; windows: number },
): string[] {
  const texts: string[] = [];
  for (const { tokens } of evaluationBatches(file, { batch: 1, sequence, maxWindows: windows }))
    texts.push(tokenizer.decode(tokens));
  return texts;
}

/** tf-idf over the training text of each model; its documents are as long as the contexts it is asked about. */
export const domainTfIdf = (
  files: readonly TokenFile[],
  tokenizer: Tokenizer,
  options: { sequence: number; windows: number },
): TfIdf => new TfIdf(files.map((file) => textOfWindows(file, tokenizer, options)));
