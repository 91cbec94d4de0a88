"""Mixture of experts: the gate, the whole layer, and the balance losses."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder


def choose(logits: torch.Tensor, k: int) -> torch.Tensor:
    """Indices of the k largest, descending; ties: lower index first. [T, K]"""
    return torch.sort(logits.detach(), dim=-1, descending=True, stable=True).indices[..., :k]


def gate(mode: int, k: int):
    """mode 0: softmax over the kept logits; 1: softmax over all, the kept ones as they are."""

    def function(logits):
        probabilities = torch.softmax(logits, -1)
        indices = choose(logits, k)
        weights = torch.softmax(logits.gather(-1, indices), -1) if mode == 0 else probabilities.gather(-1, indices)
        return weights, indices, probabilities

    return function


def layer(mode: int, k: int):
    def function(x, router, w1, w3, w2):
        weights, indices, _ = gate(mode, k)(x @ router.T)
        out = torch.zeros_like(x)
        for expert in range(router.shape[0]):
            token, slot = torch.where(indices == expert)
            hidden = F.silu(x[token] @ w1[expert].T) * (x[token] @ w3[expert].T)
            out = out.index_add(0, token, weights[token, slot].unsqueeze(-1) * (hidden @ w2[expert].T))
        return out

    return function


def balance_loss(form: str, k: int):
    """One scalar from the logits [T, E] of one layer; `hf` joins the tokens of all layers first."""

    def function(*layers):
        logits = torch.cat(layers)
        tokens, experts = logits.shape
        mean_probability = torch.softmax(logits, -1).mean(0)
        counts = F.one_hot(choose(logits, k), experts).sum((0, 1)).to(logits.dtype)
        if form == "z":
            return torch.logsumexp(logits, -1).square().mean()
        if form in ("btx", "btx_detached"):
            weights, indices, _ = gate(0, k)(logits)
            load = torch.zeros_like(logits).scatter(-1, indices, weights).mean(0)
            load = load.detach() if form == "btx_detached" else load
        elif form == "switch":
            load = F.one_hot(choose(logits, 1), experts).sum((0, 1)).to(logits.dtype) / tokens
        else:
            load = counts / tokens if form == "hf" else counts / (tokens * k)
        return experts * (load * mean_probability).sum()

    return function


def record(suite: Recorder) -> None:
    for mode in (0, 1):
        for k in (1, 2, 3):
            logits = Draw(f"moe_gate/{mode}/{k}").normal(7, 5, scale=1.5)
            suite.case("moe_gate", f"mode{mode}_top{k}", gate(mode, k), [logits], {"mode": mode, "k": k})
    ties = torch.tensor([[1.0, 2.0, 2.0, 0.0], [3.0, 3.0, 3.0, 3.0], [0.0, -1.0, 0.0, 0.0]], dtype=torch.float64)
    suite.case("moe_gate", "ties", gate(0, 2), [ties], {"mode": 0, "k": 2})

    for case, mode, k, experts, skew in [
        ("top2", 0, 2, 4, 0),
        ("top1", 0, 1, 4, 0),
        ("raw_top2", 1, 2, 4, 0),
        ("empty_expert", 0, 2, 4, 50),
    ]:
        draw = Draw(f"moe_layer/{case}")
        x, router = draw.normal(9, 6), draw.normal(experts, 6)
        if skew:
            # One feature that pushes every token away from the last expert.
            x[:, 0], router[:, 0] = 1.0, 0.0
            router[-1, 0] = -float(skew)
        weights = [draw.normal(experts, 5, 6), draw.normal(experts, 5, 6), draw.normal(experts, 6, 5)]
        suite.case("moe_layer", case, layer(mode, k), [x, router, *weights], {"mode": mode, "k": k})

    for form in ("switch", "btx", "btx_detached", "hf", "megatron", "z"):
        draw = Draw(f"balance_loss/{form}")
        suite.case("balance_loss", form, balance_loss(form, 2), [draw.normal(8, 4)], {"form": form, "k": 2})
    draw = Draw("balance_loss/hf_layers")
    layers = [draw.normal(8, 4), draw.normal(8, 4)]
    suite.case("balance_loss", "hf_two_layers", balance_loss("hf", 2), layers, {"form": "hf", "k": 2})
