export type { PipelineSettings } from "./settings.js";
export { type CaptionOrigin, maxCaptionTokens, Stages } from "./stages.js";
