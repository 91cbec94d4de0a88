export { BitsPerByte, type WindowOptions } from "./bits-per-byte.js";
export { type BranchOptions, type BranchScope, branchScopes, trainBranches, withReplay } from "./branch.js";
export { StageError, type StageErrorCode } from "./errors.js";
export { type Answer, answerArithmetic, type ExactMatchOptions, exactMatch } from "./exact-match.js";
export { balanceForms, type FinetuneOptions, type FinetuneScope, finetuneMixture, finetuneScopes } from "./finetune.js";
export { OpenModel } from "./model.js";
export { type LabelledText, type RidgeRouterOptions, setRidgeRouters } from "./ridge-router.js";
export { type DomainRouting, firstChoices, routingTable } from "./routing.js";
export { type SeedOptions, type SeedSizes, trainSeed } from "./seed.js";
export {
  type LossPoint,
  lossCurve,
  type StageContext,
  type TrainOptions,
  type TrainResult,
  type TrainSettings,
  train,
  type WeightedDomain,
} from "./training.js";
