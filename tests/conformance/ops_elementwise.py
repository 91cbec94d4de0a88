"""Elementwise ops, alone and broadcast."""

import torch
import torch.nn.functional as F

from recorder import Draw, Recorder

# name: (function, lowest input, highest input)
UNARY = {
    "negate": (torch.neg, -3, 3),
    "absolute": (torch.abs, -3, 3),
    "exp": (torch.exp, -4, 3),
    "log": (torch.log, 0.05, 6),
    "sqrt": (torch.sqrt, 0.05, 6),
    "rsqrt": (torch.rsqrt, 0.05, 6),
    "sin": (torch.sin, -7, 7),
    "cos": (torch.cos, -7, 7),
    "tanh": (torch.tanh, -4, 4),
    "sigmoid": (torch.sigmoid, -6, 6),
    "silu": (F.silu, -6, 6),
    "gelu": (lambda x: F.gelu(x, approximate="tanh"), -5, 5),
    "erf": (torch.erf, -3, 3),
    "relu": (torch.relu, -3, 3),
    "square": (torch.square, -3, 3),
    "reciprocal": (torch.reciprocal, 0.2, 4),
    "softplus": (F.softplus, -15, 15),
    # Flat: their gradient is zero.
    "floor": (torch.floor, -3, 3),
    "round": (torch.round, -3, 3),
    "sign": (torch.sign, -3, 3),
}

BINARY = {
    "add": torch.add,
    "subtract": torch.sub,
    "multiply": torch.mul,
    "divide": torch.div,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "power": torch.pow,
}

COMPARISONS = {
    "less": torch.lt,
    "less_equal": torch.le,
    "equal": torch.eq,
    "not_equal": torch.ne,
}

BROADCASTS = {
    "same": ((3, 5), (3, 5)),
    "row": ((2, 3, 5), (5,)),
    "outer": ((3, 1), (1, 5)),
    "scalar": ((), (2, 5)),
    "middle": ((2, 1, 5), (2, 3, 1)),
}


def record(suite: Recorder) -> None:
    for name, (function, low, high) in UNARY.items():
        suite.case(name, "values", function, [Draw(name).uniform(4, 9, low=low, high=high)])
    # Where exp or 1 + exp would overflow in f32.
    extreme = torch.tensor([-120.0, -89.5, -30.0, -0.0, 30.0, 89.5, 120.0], dtype=torch.float64)
    for name in ("tanh", "sigmoid", "silu", "gelu", "softplus"):
        suite.case(name, "extreme", UNARY[name][0], [extreme])
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], dtype=torch.float64)
    suite.case("round", "half_to_even", torch.round, [halves])

    for name, function in BINARY.items():
        for case, (left, right) in BROADCASTS.items():
            draw = Draw(f"{name}/{case}")
            a = draw.uniform(*left, low=0.2, high=3) if name == "power" else draw.normal(*left)
            b = draw.uniform(*right, low=0.4, high=2.5) if name == "divide" else draw.normal(*right)
            suite.case(name, case, function, [a, b])

    for name, function in COMPARISONS.items():
        draw = Draw(name)
        a, b = draw.integers(4, 6, low=0, high=3).double(), draw.integers(6, low=0, high=3).double()
        suite.case(name, "ties", lambda x, y, f=function: f(x, y).double(), [a, b], upstream=())
    for case, shapes in {"same": ((3, 5),) * 3, "broadcast": ((3, 1), (5,), (2, 1, 5))}.items():
        draw = Draw(f"where/{case}")
        condition = draw.integers(*shapes[0], low=0, high=2).double()
        values = [draw.normal(*shape) for shape in shapes[1:]]
        suite.case("where", case, lambda c, a, b: torch.where(c != 0, a, b), [condition, *values], frozen=[0])
