export type { AlarmSettings } from "./alarms.js";
export {
  type BaselineSettings,
  type CriticSettings,
  type KlSettings,
  type PpoOptions,
  type PpoSettings,
  plainPpo,
} from "./options.js";
export { ppo } from "./ppo.js";
