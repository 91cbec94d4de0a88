export type { AlarmSettings } from "./alarms.js";
export type { BaselineSettings, CriticSettings, KlSettings, PpoOptions, PpoSettings } from "./options.js";
export { ppo } from "./ppo.js";
