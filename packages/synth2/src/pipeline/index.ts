export type { PipelineSettings } from "./settings.js";
export { type CaptionOrigin, maxCaptionTokens, Stages, sceneSeed } from "./stages.js";
