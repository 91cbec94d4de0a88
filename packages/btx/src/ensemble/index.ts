export { domainTfIdf, textOfWindows } from "./documents.js";
export { type EnsembleGenerateOptions, generateFromEnsemble } from "./generate.js";
export { geometricNats } from "./geometric.js";
export {
  type EnsembleMean,
  type EnsembleOptions,
  type EnsembleRule,
  type EnsembleText,
  ensembleMeans,
  ensembleNats,
  ensembleRules,
  ensembleWeights,
  meanPosterior,
  textWeights,
} from "./score.js";
export { TfIdf } from "./tf-idf.js";
export { distanceWeights, keepLargest, mixGeometrically, mixProbabilities, Posterior } from "./weights.js";
export { bitsPerByteFrom, type WindowNats, windowNats } from "./windows.js";
