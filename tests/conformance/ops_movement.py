"""Reductions, movement of data, and indexing."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder

REDUCTIONS = {"sum": torch.sum, "max": torch.amax, "min": torch.amin, "mean": torch.mean}


def reductions(suite: Recorder) -> None:
    axes = {"first": [0], "middle": [1], "last": [2], "outer_two": [0, 1], "ends": [0, 2], "all": [0, 1, 2]}
    for name, function in REDUCTIONS.items():
        for case, dim in axes.items():
            for keep in (False, True) if case == "middle" else (False,):
                suite.case(
                    name,
                    f"{case}_kept" if keep else case,
                    lambda x, f=function, d=dim, k=keep: f(x, dim=d, keepdim=k),
                    [Draw(f"{name}/{case}").normal(3, 4, 5)],
                    {"axes": dim, "keepDims": keep},
                )
    ties = torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0], [-1.0, -5.0, -1.0]], dtype=torch.float64)
    suite.case("argmax", "ties", lambda x: torch.tensor([1, 0, 0]), [ties], upstream=())
    suite.case("argmax", "values", lambda x: x.argmax(-1), [Draw("argmax").normal(4, 7)], upstream=())
    draw = Draw("sum_squares")
    parts = [draw.normal(3, 4), draw.normal(5), draw.normal(2, 2, 2)]
    suite.case("sum_squares", "three", lambda *xs: sum(x.square().sum() for x in xs), parts)


def movement(suite: Recorder) -> None:
    for case, shape, order in [
        ("matrix", (3, 5), (1, 0)),
        ("heads", (2, 3, 4, 5), (0, 2, 1, 3)),
        ("cycle", (2, 3, 4), (2, 0, 1)),
    ]:
        x = Draw(f"transpose/{case}").normal(*shape)
        suite.case("transpose", case, lambda x, o=order: x.permute(o), [x], {"permutation": list(order)})
    for case, shapes, axis in [
        ("rows", [(2, 5), (3, 5)], 0),
        ("columns", [(3, 2), (3, 1), (3, 4)], 1),
        ("middle", [(2, 1, 3), (2, 4, 3)], 1),
    ]:
        draw = Draw(f"concat/{case}")
        parts = [draw.normal(*shape) for shape in shapes]
        suite.case("concat", case, lambda *xs, a=axis: torch.cat(xs, dim=a), parts, {"axis": axis})
    for case, shape, axis, start, length in [
        ("rows", (6, 3), 0, 2, 3),
        ("columns", (3, 6), 1, 0, 4),
        ("middle", (2, 5, 3), 1, 4, 1),
    ]:
        x = Draw(f"slice/{case}").normal(*shape)
        attributes = {"axis": axis, "start": start, "length": length}
        suite.case("slice", case, lambda x, a=axis, s=start, n=length: x.narrow(a, s, n), [x], attributes)
    for case, shape, axis, before, after in [("rows", (2, 3), 0, 1, 2), ("columns", (2, 3), 1, 2, 0)]:
        x = Draw(f"pad/{case}").normal(*shape)
        widths = [before, after] if axis == 1 else [0, 0, before, after]
        attributes = {"axis": axis, "start": before, "length": shape[axis] + before + after}
        suite.case("pad", case, lambda x, w=widths: F.pad(x, w), [x], attributes)
    x = Draw("broadcast_to").normal(3, 1)
    suite.case("broadcast_to", "two_axes", lambda x: x.expand(2, 3, 4), [x], {"shape": [2, 3, 4]})


def rows_or_zero(table: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    index = index.long()
    return table[index.clamp(min=0)] * (index >= 0).unsqueeze(-1)


def indexing(suite: Recorder) -> None:
    table = Draw("gather_rows").normal(7, 4)
    for case, index in {"repeats": [[3, 0, 3], [6, 3, 1]], "padding": [[-1, 2, 2], [5, -1, 0]]}.items():
        suite.case("gather_rows", case, rows_or_zero, [table, torch.tensor(index, dtype=torch.int32)])
    rows = Draw("scatter_add_rows").normal(5, 3)
    index = torch.tensor([2, -1, 0, 2, 2], dtype=torch.int32)

    def scatter_rows(rows: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        kept = index >= 0
        return torch.zeros(4, 3, dtype=rows.dtype).index_add(0, index[kept].long(), rows[kept])

    suite.case("scatter_add_rows", "repeats", scatter_rows, [rows, index], {"rows": 4})

    def gather(x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return x.gather(-1, index.long().clamp(min=0)) * (index >= 0)

    index = torch.tensor([[[1, 5], [0, 0]], [[-1, 2], [3, 4]]], dtype=torch.int32)
    suite.case("gather_last", "repeats", gather, [Draw("gather_last").normal(2, 2, 6), index])

    def scatter(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        base = torch.zeros(*index.shape[:-1], 6, dtype=values.dtype)
        return base.scatter_add(-1, index.long().clamp(min=0), values * (index >= 0))

    suite.case("scatter_last", "repeats", scatter, [Draw("scatter_last").normal(2, 2, 2), index], {"size": 6})


def composed(suite: Recorder) -> None:
    """Functions that are made of other ops."""
    for case, shape, sizes, axis in [("columns", (2, 3, 6), [2, 3, 1], 2), ("rows", (4, 3), [1, 1, 2], 0)]:
        x = Draw(f"split/{case}").normal(*shape)
        attributes = {"sizes": sizes, "axis": axis}
        # The second piece does not reach the loss.
        suite.case("split", case, lambda x, s=sizes, a=axis: x.split(s, a), [x], attributes, upstream=(0, 2))
    for axis in (0, 1, 2):
        x = Draw(f"cumulative_sum/{axis}").normal(3, 5, 4)
        suite.case("cumulative_sum", f"axis{axis}", lambda x, a=axis: x.cumsum(a), [x], {"axis": axis})
    x = Draw("top_k").normal(2, 3, 7)

    def top_k(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values, indices = x.topk(3)
        return values, indices.int()

    suite.case("top_k", "values", top_k, [x], {"k": 3})
    functions = {"softmax": torch.softmax, "log_softmax": torch.log_softmax, "logsumexp": torch.logsumexp}
    for name, function in functions.items():
        for axis in (0, 1):
            x = Draw(f"{name}/axis{axis}").normal(3, 4, 5)
            suite.case(f"{name}_along", f"axis{axis}", lambda x, f=function, a=axis: f(x, a), [x], {"axis": axis})
    x = Draw("argmax_along").normal(3, 4, 5)
    suite.case("argmax_along", "axis1", lambda x: x.argmax(1), [x], {"axis": 1}, upstream=())
    suite.case("gelu_exact", "values", F.gelu, [Draw("gelu_exact").normal(40, scale=3)])


def record(suite: Recorder) -> None:
    composed(suite)
    reductions(suite)
    movement(suite)
    indexing(suite)
