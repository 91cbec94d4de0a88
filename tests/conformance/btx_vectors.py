"""Worked vectors of Branch-Train-MiX (arXiv 2403.07816): every number from its definition in f64, as one JSON document.

Where a number was also worked out by hand elsewhere, `printed` holds its digits and the two must agree.
"""

import json

import torch
import torch.nn.functional as F

from ops_moe import balance_loss, choose, gate, layer

F64 = torch.float64

# The running example: T = 5 tokens, E = 4 experts, K = 2.
LOGITS = [[2, 1, 0.5, -1], [0.1, 0.2, 0.3, 0.4], [-1, 3, 0, 2], [1.5, 1.5, -0.5, 0], [0, -2, 4, 1]]


def tensor(values) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def printed(value: torch.Tensor, digits: list, places: int = 6) -> list:
    """`value` as lists, after a check against digits that were rounded (or cut) to `places` decimals."""
    error = (value.detach() - tensor(digits)).abs().max().item()
    assert error <= 1.01 * 10.0**-places, f"{error:.3g} from {digits}"
    return value.detach().tolist()


def rope() -> dict:
    head, theta, position = 4, 1e4, 3
    q = tensor([1, 2, 3, 4])
    angle = position * theta ** (-torch.arange(0, head, 2, dtype=F64) / head)
    cos, sin = angle.cos(), angle.sin()
    half = torch.cat([q[:2] * cos - q[2:] * sin, q[2:] * cos + q[:2] * sin])
    u, v = q[0::2], q[1::2]
    interleaved = torch.stack([u * cos - v * sin, v * cos + u * sin], -1).flatten()
    return {
        "headSize": head,
        "theta": theta,
        "position": position,
        "input": q.tolist(),
        "half": printed(half, [-1.413353, 1.879118, -2.828857, 4.058191]),
        "interleaved": printed(interleaved, [-1.272233, -1.838865, 2.878668, 4.088187]),
        # Interleaved to half: rows of each head in this order.
        "permutation": [0, 2, 1, 3],
    }


def rms_norm() -> dict:
    x, epsilon = tensor([1, 2, 3, 4]), 1e-5
    y = x * torch.rsqrt(x.square().mean() + epsilon)
    return {"input": x.tolist(), "epsilon": epsilon, "output": printed(y, [0.365148, 0.730296, 1.095444, 1.460593])}


def router() -> dict:
    logits = tensor(LOGITS).requires_grad_()
    kept, indices, probabilities = gate(0, 2)(logits)
    raw = gate(1, 2)(logits)[0]
    upstream = tensor([[1, -1], [0.5, 0.25], [2, 0], [0, 3], [-1, 1]])
    (gradient,) = torch.autograd.grad((kept * upstream).sum(), logits, retain_graph=True)
    (raw_gradient,) = torch.autograd.grad((raw * upstream).sum(), logits)
    dispatch = torch.sort(indices.flatten(), stable=True).indices
    inverse = torch.empty_like(dispatch)
    inverse[dispatch] = torch.arange(10)
    counts = torch.bincount(indices.flatten(), minlength=4)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    assert indices.tolist() == [[0, 1], [3, 2], [1, 3], [0, 1], [2, 3]]
    assert dispatch.tolist() == [0, 6, 1, 4, 7, 3, 8, 2, 5, 9] and inverse.tolist() == [0, 2, 7, 5, 3, 8, 1, 4, 6, 9]
    assert offsets.tolist() == [0, 2, 5, 7, 10]
    return {
        "logits": LOGITS,
        "k": 2,
        "indices": indices.tolist(),
        "probabilities": probabilities.tolist(),
        "softmaxOfKept": printed(
            kept, [[0.731059, 0.268941], [0.524979, 0.475021], [0.731059, 0.268941], [0.5, 0.5], [0.952574, 0.047426]]
        ),
        "keptOfSoftmax": printed(
            raw,
            [
                [0.60946, 0.224208],
                [0.288651, 0.261183],
                [0.696387, 0.256187],
                [0.424005, 0.424005],
                [0.934072, 0.046505],
            ],
        ),
        "counts": counts.tolist(),
        "meanProbabilities": printed(probabilities.mean(0), [0.255433, 0.316649, 0.284659, 0.143259]),
        "weightUpstream": upstream.tolist(),
        "softmaxOfKeptGradient": printed(
            gradient,
            [
                [0.393224, -0.393224, 0, 0],
                [0, 0, -0.062344, 0.062344],
                [0, 0.393224, 0, -0.393224],
                [-0.75, 0.75, 0, 0],
                [0, 0, -0.090353, 0.090353],
            ],
        ),
        "keptOfSoftmaxGradient": raw_gradient.tolist(),
        "permutation": dispatch.tolist(),
        "tokens": (dispatch // 2).tolist(),
        "offsets": offsets.tolist(),
        "inverse": inverse.tolist(),
    }


def moe_layer() -> dict:
    values = {
        "x": [[1, 2], [-1, 0.5], [2, -1]],
        "router": [[1, 0], [0, 1], [0.5, -1]],
        "w1": [[[1, 0], [0, 1]], [[0.5, -0.5], [1, 1]], [[-1, 2], [0, 0.5]]],
        "w3": [[[1, 1], [1, -1]], [[2, 0], [0, 1]], [[0, 1], [1, 0]]],
        "w2": [[[1, 0], [0, 1]], [[0, 1], [1, 0]], [[1, 1], [-1, 1]]],
    }
    upstream = [[1, 0.5], [-1, 2], [0.25, 1]]
    leaves = {name: tensor(value).requires_grad_() for name, value in values.items()}
    output = layer(0, 2)(*leaves.values())
    loss = (output * tensor(upstream)).sum()
    assert abs(loss.item() - 4.6163138673525275) < 1e-14
    gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
    digits = {
        "x": [[1.901366, 4.226678], [-1.298285, 0.152889], [0.143777, 0.653034]],
        "router": [[-0.431914, -1.855495], [0.511643, 1.815630], [-0.079729, 0.039865]],
        "w1": [
            [[1.0145658, 1.3638848], [0.4752734, -0.6043330]],
            [[0.7048487, 0.1228347], [1.6972362, 3.1287211]],
            [[-0.0394985, 0.0197492], [0.6500970, -0.3250485]],
        ],
        "w3": [
            [[0.5879487, 0.1975555], [-0.1456111, 0.6650126]],
            [[0.3244419, -0.3347237], [1.9348286, 4.2554918]],
            [[0.0539586, -0.0269793], [-0.2359629, 0.1179815]],
        ],
        "w2": [
            [[0.7855042, -0.4894543], [1.2247768, -0.8106237]],
            [[-0.6694473, 4.2554918], [0.6488837, 1.9348286]],
            [[0.0089931, -0.0471926], [0.0359724, -0.1887703]],
        ],
    }
    expected_output = [[4.768161, -0.749770], [-0.052636, 0.308279], [0.727999, -0.628155]]
    return {
        **values,
        "k": 2,
        "upstream": upstream,
        "indices": choose(tensor(values["x"]) @ tensor(values["router"]).T, 2).tolist(),
        "output": printed(output, expected_output),
        "loss": loss.item(),
        "gradients": {name: printed(gradient, digits[name]) for name, gradient in gradients.items()},
    }


def feed_forward(x, w1, w3, w2):
    return (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T


def rearranged() -> dict:
    """Splitting each expert into chunks, and blending the n-th chunks of all experts into expert n."""
    stream = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=stream, dtype=F64)

    experts, chunks, hidden, inner = 2, 2, 3, 4
    x, w1, w3, w2 = (
        normal(5, hidden),
        normal(experts, inner, hidden),
        normal(experts, inner, hidden),
        normal(experts, hidden, inner),
    )
    size = inner // chunks
    pieces = [
        [
            (w1[e, c * size : (c + 1) * size], w3[e, c * size : (c + 1) * size], w2[e][:, c * size : (c + 1) * size])
            for c in range(chunks)
        ]
        for e in range(experts)
    ]
    whole = [feed_forward(x, w1[e], w3[e], w2[e]) for e in range(experts)]
    for e in range(experts):
        total = sum(feed_forward(x, *piece) for piece in pieces[e])
        assert torch.allclose(total, whole[e], rtol=0, atol=1e-13)
    blended = [
        [torch.cat([pieces[e][n][part] for e in range(experts)], dim=1 if part == 2 else 0) for part in range(3)]
        for n in range(chunks)
    ]
    assert torch.allclose(sum(feed_forward(x, *expert) for expert in blended), sum(whole), rtol=0, atol=1e-13)
    return {
        "x": x.tolist(),
        "w1": w1.tolist(),
        "w3": w3.tolist(),
        "w2": w2.tolist(),
        "chunks": chunks,
        "outputs": [value.tolist() for value in whole],
        "splitOutputs": [[feed_forward(x, *piece).tolist() for piece in row] for row in pieces],
        "blendedOutputs": [feed_forward(x, *expert).tolist() for expert in blended],
    }


def ridge_router() -> dict:
    """W = ((B'B + lambda I)^-1 B'Y)', Y one-hot less its mean."""
    stream = torch.Generator().manual_seed(4)
    inputs = torch.randn(12, 4, generator=stream, dtype=F64)
    domains = torch.arange(12) % 3
    regularization = 0.5
    targets = F.one_hot(domains, 3).to(F64)
    targets = targets - targets.mean(0)
    weight = torch.linalg.solve(inputs.T @ inputs + regularization * torch.eye(4, dtype=F64), inputs.T @ targets).T
    return {"inputs": inputs.tolist(), "domains": domains.tolist(), "lambda": regularization, "weight": weight.tolist()}


def ensemble() -> dict:
    distances, temperature = tensor([0.9, 0.5, 0.62, 1.4]), 0.1
    rows = tensor([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5], [0.3, 0.3, 0.4]])
    weights = torch.softmax(-distances / temperature, -1)
    kept = torch.where(weights >= weights.sort(descending=True).values[1], weights, 0)
    kept = kept / kept.sum()
    geometric = torch.exp((kept[:, None] * rows.log()).sum(0))
    posterior, posteriors = tensor([0.5, 0.5]), []
    likelihoods = tensor([[0.5, 0.2], [0.4, 0.3], [0.1, 0.6]])
    for likelihood in likelihoods:
        posterior = posterior * likelihood / (posterior * likelihood).sum()
        posteriors.append(posterior)
    return {
        "squaredDistances": distances.tolist(),
        "temperature": temperature,
        "weights": printed(weights, [0.013879, 0.757786, 0.228241, 0.000094]),
        "top2Weights": printed(kept, [0, 0.768525, 0.231475, 0]),
        "probabilities": rows.tolist(),
        "top2Mixture": printed(kept @ rows, [0.134721, 0.518984, 0.346295]),
        "top2Uniform": printed(rows[1:3].mean(0), [0.175, 0.425, 0.4]),
        "top2Geometric": printed(geometric / geometric.sum(), [0.129967, 0.515063, 0.354970]),
        "prior": [0.5, 0.5],
        "likelihoods": likelihoods.tolist(),
        "posteriors": printed(
            torch.stack(posteriors), [[0.714286, 0.285714], [0.769231, 0.230769], [0.357143, 0.642857]]
        ),
    }


def balance_losses() -> dict:
    digits = {"switch": 1.004347, "btx": 1.053068, "hf": 1.967926, "megatron": 0.983963, "z": 8.467274}
    first_row = {
        "hf": [-0.024822, 0.026742, -0.005539, 0.003619],
        "btx": [-0.016962, 0.016579, 0.002640, -0.002257],
        "btx_detached": [-0.007333, 0.006950, 0.002640, -0.002257],
    }
    forms = {}
    for form in ("switch", "btx", "btx_detached", "hf", "megatron", "z"):
        logits = tensor(LOGITS).requires_grad_()
        value = balance_loss(form, 2)(logits)
        (gradient,) = torch.autograd.grad(value, logits)
        if form in digits:
            printed(value, digits[form])
        if form in first_row:
            printed(gradient[0], first_row[form])
        forms[form] = {"value": value.item(), "gradient": gradient.tolist()}
    masked = balance_loss("hf", 2)(tensor(LOGITS)[:4])
    opposed = [tensor([[10, 9, -10, -10]]).repeat(4, 1), tensor([[-10, -10, 9, 10]]).repeat(4, 1)]
    return {
        "logits": LOGITS,
        "k": 2,
        "alpha": 1,
        "forms": forms,
        "hfWithoutLastToken": printed(masked, 2.272925),
        "twoLayers": {
            "logits": [value.tolist() for value in opposed],
            "hfConcatenated": printed(balance_loss("hf", 2)(*opposed), 2.0),
            "hfMeanOfLayers": printed(torch.stack([balance_loss("hf", 2)(value) for value in opposed]).mean(), 4.0),
        },
    }


def document() -> str:
    sections = {
        "rope": rope(),
        "rmsNorm": rms_norm(),
        "router": router(),
        "moeLayer": moe_layer(),
        "rearranged": rearranged(),
        "ridgeRouter": ridge_router(),
        "ensemble": ensemble(),
        "balanceLosses": balance_losses(),
    }
    return json.dumps(sections, indent=1) + "\n"
