"""Collects cases of ops: f32 inputs, with outputs and gradients that torch computes in f64, rounded to f32 once."""

import json
import zlib
from collections.abc import Callable, Sequence

import torch
from safetensors.torch import save

Value = torch.Tensor | None


def generator(name: str) -> torch.Generator:
    """Each case draws from a stream of its own: adding a case changes no other."""
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


class Draw:
    """Random inputs of one case, as f64 tensors that hold f32 values."""

    def __init__(self, name: str):
        self.stream = generator(name)

    def normal(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        return (torch.randn(shape, generator=self.stream) * scale + shift).double()

    def uniform(self, *shape: int, low: float, high: float) -> torch.Tensor:
        return (torch.rand(shape, generator=self.stream) * (high - low) + low).double()

    def integers(self, *shape: int, low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=self.stream, dtype=torch.int32)


class Recorder:
    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.cases: dict[str, dict] = {}

    def case(
        self,
        op: str,
        name: str,
        function: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]],
        inputs: Sequence[Value],
        attributes: dict | None = None,
        frozen: Sequence[int] = (),
        upstream: Sequence[int] = (0,),
    ) -> None:
        """Records `function(*inputs)`.

        inputs: f64 (differentiated unless their position is in `frozen`), i32, or None for an optional input left out.
        upstream: positions of the outputs through which a gradient comes back; () for an op without gradient.
        """
        key = f"{op}/{name}"
        assert key not in self.cases, key
        draw = Draw(f"{key}/upstream")
        leaves = [
            value.clone().requires_grad_(position not in frozen and len(upstream) > 0)
            if value is not None and value.is_floating_point()
            else value
            for position, value in enumerate(inputs)
        ]
        results = function(*leaves)
        outputs = results if isinstance(results, tuple) else (results,)
        for position, value in enumerate(leaves):
            if value is not None:
                self._add(f"{key}/input{position}", value)
        for position, value in enumerate(outputs):
            self._add(f"{key}/output{position}", value)
        total = torch.zeros((), dtype=torch.float64)
        for position in upstream:
            gradient = draw.normal(*outputs[position].shape)
            self._add(f"{key}/upstream{position}", gradient)
            total = total + (outputs[position] * gradient).sum()
        wanted = [
            (position, value)
            for position, value in enumerate(leaves)
            if value is not None and value.is_floating_point() and value.requires_grad
        ]
        if wanted:
            gradients = torch.autograd.grad(total, [value for _, value in wanted])
            for (position, _), gradient in zip(wanted, gradients, strict=True):
                self._add(f"{key}/grad{position}", gradient)
        self.cases[key] = {
            "op": op,
            "attributes": attributes or {},
            "inputs": len(inputs),
            "outputs": len(outputs),
            "upstream": list(upstream),
            "gradients": [position for position, _ in wanted],
        }

    def _add(self, key: str, value: torch.Tensor) -> None:
        value = value.detach()
        if value.is_floating_point():
            value = value.to(torch.float32)
        else:
            value = value.to(torch.int32)
        self.tensors[key] = value.contiguous().clone()

    def serialize(self) -> bytes:
        # One metadata key: the library does not keep the order of several.
        return save(self.tensors, {"cases": json.dumps(self.cases, sort_keys=True, separators=(",", ":"))})
