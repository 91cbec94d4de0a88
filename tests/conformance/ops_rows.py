"""Ops over the last dimension, rotary embeddings, and the optimiser's update."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder


def softmax(suite: Recorder) -> None:
    functions = {"softmax": F.softmax, "log_softmax": F.log_softmax, "logsumexp": torch.logsumexp}
    for name, function in functions.items():
        draw = Draw(name)
        for case, x in {
            "values": draw.normal(3, 4, 7),
            "large": draw.normal(3, 7, scale=60),
            "one": draw.normal(4, 1),
        }.items():
            suite.case(name, case, lambda x, f=function: f(x, -1), [x])


def norms(suite: Recorder) -> None:
    epsilon = 1e-5
    draw = Draw("norms")
    x, weight, bias = draw.normal(2, 3, 8, scale=2, shift=0.5), draw.normal(8, scale=0.3, shift=1), draw.normal(8)
    small = draw.normal(3, 8, scale=1e-3)  # where epsilon counts

    def rms_norm(x, weight):
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * weight

    for case, values in {"values": x, "small": small}.items():
        suite.case("rms_norm", case, rms_norm, [values, weight], {"epsilon": epsilon})

    def layer_norm(x, weight=None, bias=None):
        return F.layer_norm(x, (8,), weight, bias, epsilon)

    for case, inputs in {
        "plain": [x, None, None],
        "weight": [x, weight, None],
        "affine": [x, weight, bias],
        "small": [small, weight, bias],
    }.items():
        suite.case("layer_norm", case, layer_norm, inputs, {"epsilon": epsilon})


def rope(suite: Recorder) -> None:
    size, positions_known = 8, 16
    frequencies = 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.arange(positions_known, dtype=torch.float64).unsqueeze(-1) * frequencies
    # Rounded to f32 like every input.
    cos, sin = angles.cos().float().double(), angles.sin().float().double()
    positions = torch.tensor([[0, 1, 2, 3, 4], [7, 3, 15, 15, 0]], dtype=torch.int32)

    def rotate(inverse: bool, interleaved: bool):
        def function(x, cos, sin, positions):
            c, s = cos[positions.long()].unsqueeze(2), sin[positions.long()].unsqueeze(2)
            s = -s if inverse else s
            if interleaved:
                u, v = x[..., 0::2], x[..., 1::2]
                return torch.stack([u * c - v * s, v * c + u * s], -1).flatten(-2)
            u, v = x.chunk(2, -1)
            return torch.cat([u * c - v * s, v * c + u * s], -1)

        return function

    for case, inverse, interleaved in [
        ("half", False, False),
        ("half_inverse", True, False),
        ("interleaved", False, True),
    ]:
        x = Draw(f"rope/{case}").normal(2, 5, 3, size)
        attributes = {"inverse": inverse, "interleaved": interleaved}
        suite.case("rope", case, rotate(inverse, interleaved), [x, cos, sin, positions], attributes, frozen=[1, 2])


def swiglu(suite: Recorder) -> None:
    def function(x):
        gate, up = x.chunk(2, -1)
        return F.silu(gate) * up

    suite.case("swiglu", "values", function, [Draw("swiglu").normal(2, 3, 10, scale=2)])


def adamw(suite: Recorder) -> None:
    """Three steps. input0: parameter, input1..: gradients; output0..: the parameter after each, then moments."""
    beta1, beta2, epsilon, decay = 0.9, 0.95, 1e-8, 0.1
    rates, scales = [1e-2, 5e-3, 2e-2], [1.0, 0.5, 1.0]
    draw = Draw("adamw")

    def function(parameter, *gradients):
        parameter = parameter.clone().requires_grad_()
        optimizer = torch.optim.AdamW([parameter], betas=(beta1, beta2), eps=epsilon, weight_decay=decay)
        after = []
        for gradient, rate, scale in zip(gradients, rates, scales, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            parameter.grad = gradient * scale
            optimizer.step()
            after.append(parameter.detach().clone())
        state = optimizer.state[parameter]
        return (*after, state["exp_avg"], state["exp_avg_sq"])

    attributes = {
        "beta1": beta1,
        "beta2": beta2,
        "epsilon": epsilon,
        "weightDecay": decay,
        "learningRates": rates,
        "gradientScales": scales,
    }
    inputs = [draw.normal(4, 5), *(draw.normal(4, 5, scale=scale) for scale in (1, 0.01, 3))]
    suite.case("adamw", "three_steps", function, inputs, attributes, upstream=())


def record(suite: Recorder) -> None:
    softmax(suite)
    norms(suite)
    rope(suite)
    swiglu(suite)
    adamw(suite)
