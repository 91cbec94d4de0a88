export { readCaptionRows } from "./caption-rows.js";
export { type CaptionRow, type SynthesizeOptions, type SynthesizeResult, synthesize } from "./synthesize.js";
