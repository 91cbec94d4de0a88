export {
  promptTexts,
  type ResponsePair,
  type TaskPrompts,
  taskDemonstrations,
  taskPreferences,
  taskPrompts,
  taskResponseTokens,
} from "./generate.js";
export { bestGold, gold } from "./gold.js";
