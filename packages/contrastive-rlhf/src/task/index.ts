export {
  pairsOf,
  preferenceOf,
  promptNormal,
  promptTexts,
  type ResponsePair,
  type TaskPrompts,
  type TaskResponse,
  taskDemonstrations,
  taskPreferences,
  taskPrompts,
  taskResponseTokens,
} from "./generate.js";
export { bestGold, gold } from "./gold.js";
export { taskTokenizer } from "./tokenizer.js";
