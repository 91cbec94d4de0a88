"""Matrix products: plain, fused, grouped by expert, and the output projection with its cross entropy."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder

ACTIVATIONS = {
    "none": lambda z: z,
    "relu": torch.relu,
    "gelu": lambda z: F.gelu(z, approximate="tanh"),
    "silu": F.silu,
}


def matmul(suite: Recorder) -> None:
    def product(transpose_a: bool, transpose_b: bool, alpha: float, activation: str):
        def function(a, b, bias=None, residual=None):
            left = a.transpose(-1, -2) if transpose_a else a
            right = b.transpose(-1, -2) if transpose_b else b
            z = alpha * (left @ right)
            c = ACTIVATIONS[activation](z if bias is None else z + bias)
            return c if residual is None else c + residual

        return function

    def add(
        case, left, right, transpose_a=False, transpose_b=False, alpha=1.0, activation="none", bias=None, residual=None
    ):
        draw = Draw(f"matmul/{case}")
        inputs = [draw.normal(*left), draw.normal(*right)]
        for shape in (bias, residual):
            inputs.append(None if shape is None else draw.normal(*shape))
        attributes = {"transposeA": transpose_a, "transposeB": transpose_b, "alpha": alpha, "activation": activation}
        suite.case("matmul", case, product(transpose_a, transpose_b, alpha, activation), inputs, attributes)

    for ta in (False, True):
        for tb in (False, True):
            suffix = ("t" if ta else "n") + ("t" if tb else "n")
            left, right = (7, 5) if ta else (5, 7), (6, 7) if tb else (7, 6)
            add(f"plain_{suffix}", left, right, ta, tb)
            add(f"batched_{suffix}", (2, 3, *left), (2, 3, *right), ta, tb)
    add("shared_nn", (2, 3, 7), (7, 6))
    add("shared_nt", (2, 3, 7), (6, 7), transpose_b=True)
    add("one_row", (1, 9), (5, 9), transpose_b=True)
    add("tiles", (33, 70), (37, 70), transpose_b=True)
    add("alpha", (4, 6), (6, 3), alpha=0.25)
    add("bias", (2, 4, 6), (3, 6), transpose_b=True, bias=(3,))
    add("residual", (2, 4, 6), (3, 6), transpose_b=True, residual=(2, 4, 3))
    for name in ("relu", "gelu", "silu"):
        add(name, (4, 6), (5, 6), transpose_b=True, activation=name, bias=(5,))
        add(f"{name}_residual", (4, 6), (5, 6), transpose_b=True, activation=name, bias=(5,), residual=(4, 5))


def grouped_matmul(suite: Recorder) -> None:
    offsets = torch.tensor([0, 3, 3, 7, 8], dtype=torch.int32)  # the second expert has no rows

    def product(transpose_w: bool):
        def function(x, w, offsets, row_index=None):
            rows = x if row_index is None else x[row_index.long()]
            groups = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
            return torch.cat([rows[a:b] @ (w[e].T if transpose_w else w[e]) for e, (a, b) in enumerate(groups)])

        return function

    draw = Draw("grouped_matmul")
    w = draw.normal(4, 5, 6)
    index = torch.tensor([4, 0, 2, 2, 1, 3, 0, 4], dtype=torch.int32)
    suite.case("grouped_matmul", "transposed", product(True), [draw.normal(8, 6), w, offsets], {"transposeW": True})
    suite.case("grouped_matmul", "plain", product(False), [draw.normal(8, 5), w, offsets], {"transposeW": False})
    suite.case(
        "grouped_matmul", "gathered", product(True), [draw.normal(5, 6), w, offsets, index], {"transposeW": True}
    )


def cross_entropy(suite: Recorder) -> None:
    def loss(logits, targets, weights):
        kept = targets >= 0
        nll = -F.log_softmax(logits, -1).gather(-1, targets.long().clamp(min=0).unsqueeze(-1)).squeeze(-1) * kept
        return (weights * nll).sum(), nll

    targets = torch.tensor([3, 0, -1, 8, 3, 5], dtype=torch.int32)
    draw = Draw("cross_entropy")
    logits, weights = draw.normal(6, 9, scale=2), draw.uniform(6, low=0.1, high=1.5)
    mean = torch.full((6,), 1 / 6).double()
    all_kept = torch.tensor([3, 0, 1, 8, 3, 5], dtype=torch.int32)
    suite.case("cross_entropy", "mean", loss, [logits, all_kept, mean], frozen=[2])
    suite.case("cross_entropy", "ignored_weighted", loss, [logits, targets, weights], frozen=[2])
    suite.case("cross_entropy", "large", loss, [logits * 40, targets, weights], frozen=[2])

    def linear(x, w, targets, weights):
        return loss(x @ w.T, targets, weights)

    x, w = draw.normal(6, 5), draw.normal(9, 5)
    suite.case("linear_cross_entropy", "mean", linear, [x, w, all_kept, mean], frozen=[3])
    suite.case("linear_cross_entropy", "ignored_weighted", linear, [x, w, targets, weights], frozen=[3])


def record(suite: Recorder) -> None:
    matmul(suite)
    grouped_matmul(suite)
    cross_entropy(suite)
