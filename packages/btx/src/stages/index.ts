export { domainsOfArrayJob } from "./array-index.js";
export { BitsPerByte, type WindowOptions } from "./bits-per-byte.js";
export {
  type BranchOptions,
  type BranchScope,
  branchScopes,
  namesToTrain,
  requireDense,
  trainBranches,
  withReplay,
} from "./branch.js";
export { type BranchJobsOptions, runBranchJobs } from "./branch-jobs.js";
export { type BranchState, type BranchStatus, branchStatus, writeBranchPlan } from "./branch-status.js";
export { StageError, type StageErrorCode } from "./errors.js";
export { type EvaluateOptions, evaluateModel, type ModelScores } from "./evaluate.js";
export { type Answer, answerTask, type ExactMatchOptions, exactMatch } from "./exact-match.js";
export { type FinetuneOptions, type FinetuneScope, finetuneMixture, finetuneScopes } from "./finetune.js";
export { mixWithRidgeRouter } from "./mix-with-ridge.js";
export { OpenModel } from "./model.js";
export {
  type QuickstartOptions,
  type QuickstartResults,
  quickstart,
  quickstartLayout,
  readQuickstartResults,
} from "./quickstart.js";
export { type LabelledText, type RidgeRouterOptions, setRidgeRouters } from "./ridge-router.js";
export { type DomainRouting, firstChoices, routingTable } from "./routing.js";
export { type LayerRouting, summarizeRouting } from "./routing-summary.js";
export { continuations, type RoutedSample, routedSamples } from "./samples.js";
export { type SeedOptions, type SeedSizes, trainSeed } from "./seed.js";
export {
  domainUsage,
  type LossPoint,
  lossCurve,
  type TrainOptions,
  type TrainSettings,
  train,
  type WeightedDomain,
} from "./training.js";
