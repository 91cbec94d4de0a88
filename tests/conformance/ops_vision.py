"""Images, channels last, and codes: convolution, normalisation, resampling, quantisation, masked decoding."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder


def to_channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def to_channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


def convolve(stride: int, before: int, after: int):
    def function(x, w, bias=None):
        padded = F.pad(to_channels_first(x), (before, after, before, after))
        return to_channels_last(F.conv2d(padded, to_channels_first(w), bias, stride))

    return function


def convolution(suite: Recorder) -> None:
    for case, (height, width, channels, outputs, kernel, stride, before, after) in {
        "same": (5, 6, 3, 4, 3, 1, 1, 1),
        "valid": (5, 4, 2, 3, 3, 1, 0, 0),
        "down": (6, 8, 3, 5, 3, 2, 0, 1),
        "four": (6, 6, 2, 3, 4, 2, 1, 1),
        "pointwise": (3, 4, 5, 6, 1, 1, 0, 0),
        "sparse": (5, 5, 3, 2, 1, 2, 0, 0),
        "deep": (4, 4, 60, 7, 3, 1, 1, 1),  # 540 products to a sum: more than one block of the kernel
    }.items():
        draw = Draw(f"conv2d/{case}")
        x, w = draw.normal(2, height, width, channels), draw.normal(outputs, kernel, kernel, channels, scale=0.5)
        attributes = {"stride": stride, "padding": [before, after]}
        bias = None if case == "valid" else draw.normal(outputs)
        suite.case("conv2d", case, convolve(stride, before, after), [x, w, bias], attributes)

        if case not in ("down", "pointwise"):
            continue
        # The gradients as functions of their own, differentiated once more: what a gradient penalty needs.
        dy = draw.normal(*convolve(stride, before, after)(x, w).shape)

        def input_grad(dy, w, x=x, forward=convolve(stride, before, after)):
            leaf = x.clone().requires_grad_()
            return torch.autograd.grad(forward(leaf, w), leaf, dy, create_graph=True)[0]

        def weight_grad(dy, x, w=w, forward=convolve(stride, before, after)):
            leaf = w.clone().requires_grad_()
            return torch.autograd.grad(forward(x, leaf), leaf, dy, create_graph=True)[0]

        # The last input only gives the shape of what is differentiated.
        suite.case("conv2d_input_grad", case, lambda dy, w, x, f=input_grad: f(dy, w), [dy, w, x], attributes, frozen=[2])
        suite.case("conv2d_weight_grad", case, lambda dy, x, w, f=weight_grad: f(dy, x), [dy, x, w], attributes, frozen=[2])


def resampling(suite: Recorder) -> None:
    draw = Draw("resampling")

    def upsample(x):
        return to_channels_last(F.interpolate(to_channels_first(x), scale_factor=2, mode="nearest"))

    def pool(x):
        return to_channels_last(F.avg_pool2d(to_channels_first(x), 2))

    suite.case("upsample_nearest2", "values", upsample, [draw.normal(2, 3, 2, 5)])
    suite.case("average_pool2", "values", pool, [draw.normal(2, 4, 6, 5)])


def group_normalisation(suite: Recorder) -> None:
    epsilon = 1e-6
    draw = Draw("group_norm")
    for case, shape, groups in [("image", (2, 3, 4, 8), 4), ("sequence", (3, 5, 6), 2), ("instance", (2, 6, 4), 4)]:
        x, weight, bias = draw.normal(*shape, scale=2, shift=0.5), draw.normal(shape[-1], shift=1), draw.normal(shape[-1])

        def function(x, weight, bias, groups=groups):
            return F.group_norm(x.movedim(-1, 1), groups, weight, bias, epsilon).movedim(1, -1)

        suite.case("group_norm", case, function, [x, weight, bias], {"groups": groups, "epsilon": epsilon})


def quantisation(suite: Recorder) -> None:
    draw = Draw("vector_quantise")

    def distances(x, codebook):
        return (x[:, None] - codebook).square().sum(-1)

    def lookup(x, codebook):
        nearest = distances(x, codebook).min(-1)
        return nearest.indices, nearest.values

    def quantise(x, codebook):
        index = distances(x, codebook).argmin(-1)
        codes = codebook[index]
        return index, codes, x + (codes - x).detach()

    x, codebook = draw.normal(12, 5), draw.normal(7, 5)
    suite.case("vq_lookup", "values", lookup, [x, codebook], upstream=())
    suite.case("vector_quantise", "values", quantise, [x, codebook], upstream=(1, 2))


def masked_diffusion(suite: Recorder) -> None:
    """Greedy and without noise: what needs no random numbers. native/test has the rest."""
    draw = Draw("masked_diffusion_step")
    mask, guidance = 9, 1.5
    logits, unconditional = draw.normal(2, 6, 9, scale=2), draw.normal(2, 6, 9, scale=2)
    tokens = torch.tensor([[mask, 3, mask, mask, mask, mask], [mask, mask, 0, 8, mask, mask]], dtype=torch.int32)
    remaining = torch.tensor([3, 1], dtype=torch.int32)

    def function(logits, unconditional, tokens, remaining):
        guided = (1 + guidance) * logits - guidance * unconditional
        best = guided.log_softmax(-1).max(-1)
        known = tokens != mask
        sampled = torch.where(known, tokens, best.indices.int())
        confidence = torch.where(known, torch.inf, best.values)
        following = sampled.clone()
        for row, count in enumerate(remaining.tolist()):
            following[row, confidence[row].argsort()[:count]] = mask
        return following, sampled, confidence

    inputs = [logits, unconditional, tokens, remaining]
    attributes = {"maskToken": mask, "controls": [guidance, 0, 0]}
    suite.case("masked_diffusion_step", "greedy", function, inputs, attributes, upstream=())


def record(suite: Recorder) -> None:
    convolution(suite)
    group_normalisation(suite)
    resampling(suite)
    quantisation(suite)
    masked_diffusion(suite)
