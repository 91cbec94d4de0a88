import type { Case } from "../measure/side.js";
import { attentionCases } from "./attention.js";
import { convolutionCases } from "./convolution.js";
import { crossEntropyCases } from "./cross-entropy.js";
import { imageTokenCases } from "./image-tokens.js";
import { linearCases, matmulCases } from "./matmul.js";
import { mixtureOfExpertsCases } from "./mixture-of-experts.js";
import { optimizerCases } from "./optimizer.js";
import { rowCases } from "./rows.js";
import { samplingCases } from "./sampling.js";

/** Every kernel case; `quick` is a small one of each family, for a look or a test. */
export const kernelCases = (quick: boolean): Case[] =>
  [
    matmulCases,
    linearCases,
    mixtureOfExpertsCases,
    attentionCases,
    crossEntropyCases,
    rowCases,
    optimizerCases,
    samplingCases,
    convolutionCases,
    imageTokenCases,
  ].flatMap((make) => make(quick));
