export { bleu } from "./bleu.js";
export { ciderD, type DocumentFrequencies, documentFrequencies } from "./cider.js";
export { CaptionClusters, type CaptionDiversity, type ClusterOptions, type Coverage, coverage } from "./diversity.js";
export type { ScoredPair } from "./ngrams.js";
export { rougeL } from "./rouge.js";
export { type CaptionScores, scoreCaptions } from "./score.js";
export { tokeniseCaption } from "./tokenise.js";
