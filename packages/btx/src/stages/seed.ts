import {
  type ByteTokenizer,
  defined,
  Llama,
  type LlamaSizes,
  newLlamaConfig,
  requireFreeOutput,
  type StageContext,
  saveModel,
  type Tokenizer,
  tokenizerFiles,
} from "@trefoil/core";
import type { DomainTokens } from "../domains/index.js";
import { StageError } from "./errors.js";
import { type TrainSettings, train } from "./training.js";

/** Sizes of a seed that is trained from scratch. */
export type SeedSizes = LlamaSizes;

export interface SeedOptions extends StageContext {
  sizes: SeedSizes;
  domains: readonly DomainTokens[];
  /** Default: bytes. */
  tokenizer: Tokenizer | ByteTokenizer;
  settings: TrainSettings;
  /** Folder of the model. */
  output: string;
  /** Run directory. */
  run: string;
  resume?: boolean;
  overwrite?: boolean;
}

/** Trains a small Llama from scratch on the domains by their weights. Returns whether it came to the end. */
export async function trainSeed(options: SeedOptions): Promise<boolean> {
  const { sizes, domains, tokenizer, settings, output, run, resume, overwrite, progress, signal } = options;
  requireFreeOutput({ output, run, overwrite });
  if (settings.sequence > sizes.maxPositions) {
    const message = `--train.sequence is ${settings.sequence}, more than the ${sizes.maxPositions} of --model.maxPositions`;
    throw new StageError("BTX_OPTIONS", message);
  }
  // The usual 0.02 suits widths in the thousands; for narrow models this keeps activations near 1.
  const initializerRange = 1 / Math.sqrt(sizes.hiddenSize);
  const config = newLlamaConfig(sizes, tokenizer, { tieWordEmbeddings: true, initializerRange });
  const model = new Llama(config, settings.seed);
  try {
    const data = domains.map((domain) => ({ domain, weight: domain.weight ?? 1 }));
    const shared = { model, data, settings, run, title: "seed", config: { sizes, settings } };
    const completed = await train({ ...shared, ...defined({ progress, signal, resume }) });
    if (completed) {
      await saveModel(model, output, {
        config,
        files: tokenizerFiles(tokenizer),
        ...defined({ overwrite }),
      });
    }
    return completed;
  } finally {
    model.dispose();
  }
}
