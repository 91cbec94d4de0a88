import { add, mean, multiply, negate, softplus, square, subtract, type Tensor, type TensorLike } from "@trefoil/core";

/** -log σ(z), stable. */
const negativeLogSigmoid = (z: Tensor): Tensor => softplus(negate(z));

export interface RewardModelLossOptions {
  /** [n]: how much better the chosen response should be at least. */
  margin?: Tensor;
  /** Coefficient of mean (r⁺ + r⁻)², which keeps rewards around 0. Default 0. */
  centre?: number;
  /** Assumed rate of flipped labels. */
  labelNoise?: { kind: "conservative" | "robust"; rate: number };
}

// `conservative` smooths the labels; `robust` is unbiased under flips (Chowdhury et al., arXiv 2403.00409).
function underLabelNoise(
  loss: (sign: 1 | -1) => Tensor,
  { kind, rate }: NonNullable<RewardModelLossOptions["labelNoise"]>,
): Tensor {
  const right = multiply(loss(1), 1 - rate);
  const wrong = multiply(loss(-1), rate);
  return kind === "conservative" ? add(right, wrong) : multiply(subtract(right, wrong), 1 / (1 - 2 * rate));
}

/** Bradley–Terry: `-log σ(r⁺ - r⁻ - margin)`, both rewards [n]; the loss is the mean of `perPair`, plus centring. */
export function rewardModelLoss(chosen: Tensor, rejected: Tensor, options: RewardModelLossOptions = {}) {
  const { margin, centre = 0, labelNoise } = options;
  const difference = subtract(chosen, rejected);
  const shifted = margin ? subtract(difference, margin) : difference;
  const ofSign = (sign: 1 | -1) => negativeLogSigmoid(multiply(shifted, sign));
  const perPair = labelNoise ? underLabelNoise(ofSign, labelNoise) : ofSign(1);
  const loss = mean(perPair);
  return {
    loss: centre === 0 ? loss : add(loss, multiply(mean(square(add(chosen, rejected))), centre)),
    perPair,
    difference,
  };
}

/** How DPO compares: `sigmoid` (arXiv 2305.18290), `conservative` (smoothed labels), `robust` (arXiv 2403.00409), `ipo` (arXiv 2310.12036). */
export type DpoForm = { kind: "sigmoid" } | { kind: "conservative" | "robust"; rate: number } | { kind: "ipo" };

export interface DpoInputs {
  /** Summed log-probabilities of each response, [n]; differentiated. */
  chosen: Tensor;
  rejected: Tensor;
  referenceChosen: TensorLike;
  referenceRejected: TensorLike;
}

/** Direct preference optimisation. Implicit rewards are `β (log π - log π_ref)`. */
export function dpoLoss(
  { chosen, rejected, referenceChosen, referenceRejected }: DpoInputs,
  beta: number,
  form: DpoForm = { kind: "sigmoid" },
) {
  const chosenReward = multiply(subtract(chosen, referenceChosen), beta);
  const rejectedReward = multiply(subtract(rejected, referenceRejected), beta);
  const margin = subtract(chosenReward, rejectedReward);
  const ofSign = (sign: 1 | -1) => negativeLogSigmoid(multiply(margin, sign));
  let perPair: Tensor;
  if (form.kind === "sigmoid") perPair = ofSign(1);
  else if (form.kind === "ipo") perPair = square(add(multiply(margin, 1 / beta), -1 / (2 * beta)));
  else perPair = underLabelNoise(ofSign, form);
  return { loss: mean(perPair), perPair, chosenReward, rejectedReward, margin };
}
