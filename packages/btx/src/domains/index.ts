export {
  allProblems,
  arithmeticSplit,
  heldOutProblems,
  isHeldOutProblem,
  type Problem,
  solvedExamples,
} from "./arithmetic.js";
export type { DomainDocument, DomainSplit } from "./documents.js";
export { installedModules } from "./files.js";
export {
  type BuiltInDomain,
  builtInDomains,
  closeDomains,
  type DomainOptions,
  type DomainSource,
  type DomainSpec,
  type DomainTokens,
  hasBuiltIn,
  openDomains,
  readBuiltIn,
} from "./tokens.js";
