export type { ChatMessage } from "./chat.js";
export {
  type DemonstrationText,
  type PreferenceText,
  type PromptText,
  readDemonstrations,
  readPreferences,
  readPrompts,
} from "./rows.js";
export { EpisodeEncoder, type PreferenceEpisodes, type PromptTokens } from "./tokens.js";
