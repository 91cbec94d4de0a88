export { domainTfIdf, textOfWindows } from "./documents.js";
export { type EnsembleGenerateOptions, generateFromEnsemble } from "./generate.js";
export {
  type EnsembleOptions,
  type EnsembleRule,
  ensembleNats,
  ensembleRules,
  meanPosterior,
  textWeights,
} from "./score.js";
export { TfIdf } from "./tf-idf.js";
export { distanceWeights, keepLargest, mixProbabilities, Posterior } from "./weights.js";
export { bitsPerByteFrom, type WindowNats, windowNats } from "./windows.js";
