"""Losses of RLHF with their gradients, as PyTorch differentiates them in f64: through the softmax where they have one."""

import json

import torch
import torch.nn.functional as F
from recorder import Draw
from safetensors.torch import save
from torch.distributions import Categorical

TOKENS, VOCABULARY, PAIRS = 24, 11, 9
CLIP, DUAL_CLIP, VALUE_CLIP = 0.2, 1.5, 0.2
KL_COEFFICIENT, VALUE_COEFFICIENT, ENTROPY_COEFFICIENT, TEMPERATURE = 0.3, 0.5, 0.05, 0.7
CENTRE, NOISE, BETA = 0.01, 0.15, 0.25


def single(value: torch.Tensor) -> torch.Tensor:
    """f64 that f32 holds."""
    return value.float().double()


class Losses:
    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}

    def add(self, name: str, value: torch.Tensor) -> torch.Tensor:
        kind = torch.float32 if value.is_floating_point() else torch.int32
        self.tensors[name] = value.detach().to(kind).contiguous().clone()
        return value

    def case(self, name: str, loss: torch.Tensor, **leaves: torch.Tensor) -> None:
        self.add(f"{name}/loss", loss)
        for leaf, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True):
            self.add(f"{name}/{leaf}.grad", gradient)


def policies(losses: Losses) -> None:
    draw = Draw("rlhf/policy")
    logits = losses.add("logits", draw.normal(TOKENS, VOCABULARY, scale=1.5)).requires_grad_(True)
    actions = losses.add("actions", draw.integers(TOKENS, low=0, high=VOCABULARY))
    mask = losses.add("mask", (torch.arange(TOKENS) % 6 != 5).double())
    advantages = losses.add("advantages", draw.normal(TOKENS))
    now = Categorical(logits=logits / TEMPERATURE)
    log_probs = now.log_prob(actions.long())
    # Ratios from 1/3 to 3: every branch of both clips is taken.
    old = losses.add("old", single(log_probs.detach() + draw.uniform(TOKENS, low=-1.1, high=1.1)))
    reference = losses.add("reference", single(log_probs.detach() + draw.normal(TOKENS, scale=0.6)))
    values = losses.add("values", draw.normal(TOKENS)).requires_grad_(True)
    old_values = losses.add("old_values", single(values.detach() + draw.normal(TOKENS, scale=0.3)))
    returns = losses.add("returns", draw.normal(TOKENS))

    def over_tokens(each: torch.Tensor) -> torch.Tensor:
        return each[mask.bool()].mean()

    surrogate = torch.min(
        torch.exp(log_probs - old) * advantages,
        torch.exp(log_probs - old).clip(1 - CLIP, 1 + CLIP) * advantages,
    )
    bounded = torch.where(advantages < 0, torch.max(surrogate, DUAL_CLIP * advantages), surrogate)
    assert ((bounded != surrogate) & mask.bool()).any()
    policy = -over_tokens(surrogate)
    losses.case("policy", policy, logits=logits)
    losses.case("policy-dual-clip", -over_tokens(bounded), logits=logits)

    near = old_values + (values - old_values).clip(-VALUE_CLIP, VALUE_CLIP)
    squares = torch.max(F.mse_loss(values, returns, reduction="none"), F.mse_loss(near, returns, reduction="none"))
    losses.case("value", over_tokens(F.mse_loss(values, returns, reduction="none")) / 2, values=values)
    losses.case("value-clip", over_tokens(squares) / 2, values=values)

    k2 = over_tokens((log_probs - reference) ** 2 / 2)
    k3 = over_tokens(torch.exp(reference - log_probs) - 1 + log_probs - reference)
    losses.case("kl-k2", k2, logits=logits)
    losses.case("kl-k3", k3, logits=logits)
    # k1 is no loss (its gradient is 0 in expectation): it goes into the reward of each token.
    losses.add("k1-rewards", -KL_COEFFICIENT * (log_probs - reference))
    entropy = over_tokens(now.entropy())
    losses.case("entropy", entropy, logits=logits)
    whole = policy + VALUE_COEFFICIENT * over_tokens(squares) / 2 + KL_COEFFICIENT * k3 - ENTROPY_COEFFICIENT * entropy
    losses.case("ppo", whole, logits=logits, values=values)


def preferences(losses: Losses) -> None:
    draw = Draw("rlhf/preferences")
    chosen = losses.add("chosen", draw.normal(PAIRS, scale=2)).requires_grad_(True)
    rejected = losses.add("rejected", draw.normal(PAIRS, scale=2)).requires_grad_(True)
    margin = losses.add("margin", draw.uniform(PAIRS, low=0, high=1))
    leaves = {"chosen": chosen, "rejected": rejected}
    difference = chosen - rejected
    right, wrong = -F.logsigmoid(difference), -F.logsigmoid(-difference)
    centre = CENTRE * ((chosen + rejected) ** 2).mean()
    losses.case("reward", right.mean(), **leaves)
    losses.case("reward-margin", -F.logsigmoid(difference - margin).mean(), **leaves)
    losses.case("reward-centre", right.mean() + centre, **leaves)
    smoothed = F.binary_cross_entropy_with_logits(difference, torch.full_like(difference, 1 - NOISE))
    losses.case("reward-conservative", smoothed, **leaves)
    losses.case("reward-robust", (((1 - NOISE) * right - NOISE * wrong) / (1 - 2 * NOISE)).mean(), **leaves)

    references = [losses.add(f"reference_{side}", draw.normal(PAIRS, scale=2)) for side in leaves]
    h = (chosen - references[0]) - (rejected - references[1])
    right, wrong = -F.logsigmoid(BETA * h), -F.logsigmoid(-BETA * h)
    losses.case("dpo", right.mean(), **leaves)
    losses.case("dpo-conservative", ((1 - NOISE) * right + NOISE * wrong).mean(), **leaves)
    losses.case("dpo-robust", (((1 - NOISE) * right - NOISE * wrong) / (1 - 2 * NOISE)).mean(), **leaves)
    losses.case("dpo-ipo", ((h - 1 / (2 * BETA)) ** 2).mean(), **leaves)


def document() -> bytes:
    losses = Losses()
    policies(losses)
    preferences(losses)
    settings = {
        "clip": CLIP,
        "dualClip": DUAL_CLIP,
        "valueClip": VALUE_CLIP,
        "klCoefficient": KL_COEFFICIENT,
        "valueCoefficient": VALUE_COEFFICIENT,
        "entropyCoefficient": ENTROPY_COEFFICIENT,
        "temperature": TEMPERATURE,
        "centre": CENTRE,
        "rate": NOISE,
        "beta": BETA,
    }
    return save(losses.tensors, {"settings": json.dumps(settings, sort_keys=True)})
