import type { LanguageSizes } from "../captions/index.js";
import type { GeneratorLossSettings, GeneratorSizes } from "../generator/index.js";
import type { SamplingOptions } from "../sampling/index.js";
import type { TokenizerArchitecture, TokenizerLossSettings } from "../tokenizer/index.js";
import type { TrainingSettings } from "../training/index.js";
import type { VlmSizes } from "../vlm/index.js";
import type { WorldName } from "../world/index.js";

/** Every stage from nothing to a vision-language model, on the built-in world. */
export interface PipelineSettings {
  world: WorldName;
  /** Pictures with human captions. */
  pairs: number;
  /** Tokens of the captions' vocabulary, at most; generator and language model share it. */
  vocabulary: number;
  /** Synthetic pairs. */
  synthetic: number;
  tokenizer: { model: TokenizerArchitecture; loss: TokenizerLossSettings; train: TrainingSettings };
  generator: { model: GeneratorSizes; loss: GeneratorLossSettings; train: TrainingSettings };
  sampling: SamplingOptions;
  language: { model: LanguageSizes; train: TrainingSettings };
  vlm: { model: VlmSizes; train: TrainingSettings };
}
