export { expandBraces } from "./braces.js";
export { decodeImage, encodePng, type ImageLocation } from "./decode.js";
export { DecodePool } from "./decode-pool.js";
export { type OpenDataset, openDataset } from "./open.js";
export { type PrepareImagesOptions, prepareImages, saveDataset } from "./prepare.js";
export { PreparedDataset } from "./prepared.js";
export { type Problem, Problems } from "./problems.js";
export type { SourceOptions } from "./sources.js";
export { readTar, type TarMember } from "./tar.js";
