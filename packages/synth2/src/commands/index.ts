import type { Command } from "@trefoil/core";
import { captionCommand, evaluateCommand } from "./caption.js";
import { captionsCommand } from "./captions.js";
import { faithfulnessCommand } from "./faithfulness.js";
import { generateCommand } from "./generate.js";
import { generatorCommand } from "./generator.js";
import { languageModelCommand } from "./language-model.js";
import { prepareCommand } from "./prepare.js";
import { quickstartCommand } from "./quickstart.js";
import { reproduceCommand } from "./reproduce.js";
import { synthesizeCommand } from "./synthesize.js";
import { tokenizerCommand } from "./tokenizer.js";
import { vlmCommand } from "./vlm.js";

export const commands: readonly Command[] = [
  prepareCommand,
  tokenizerCommand,
  generatorCommand,
  generateCommand,
  faithfulnessCommand,
  languageModelCommand,
  captionsCommand,
  vlmCommand,
  captionCommand,
  evaluateCommand,
  synthesizeCommand,
  quickstartCommand,
  reproduceCommand,
];
