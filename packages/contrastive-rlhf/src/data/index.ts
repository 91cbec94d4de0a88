export type { ChatMessage } from "./chat.js";
export { longestOf } from "./longest.js";
export {
  type DemonstrationText,
  type PreferenceText,
  type PromptText,
  readDemonstrations,
  readPreferences,
  readPrompts,
} from "./rows.js";
export { EpisodeEncoder, joined, type PreferenceEpisodes, type PromptTokens } from "./tokens.js";
