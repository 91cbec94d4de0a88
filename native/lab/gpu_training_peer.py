"""The peer of training_bench.mjs: the same training step in PyTorch, with torch.compile, bf16 autocast over f32 weights and fused AdamW.
`python gpu_training_peer.py --model dense-1.1b|moe-4x0.3b|tiny|tiny-moe [--device cuda] [--batch 4] [--sequence 2048] [--steps 10]
[--peak TFLOP/s]` prints one JSON object."""

import argparse
import json
import time

import torch
import torch.nn.functional as F
from torch import nn

SMALL = {"hidden": 32, "inner": 64, "layers": 1, "heads": 2, "groups": 1, "head": 16, "vocabulary": 64}
SIZES = {
    "dense-1.1b": {"hidden": 2048, "inner": 5632, "layers": 22, "heads": 32, "groups": 4, "head": 64, "vocabulary": 32000},
    "moe-4x0.3b": {"hidden": 1024, "inner": 2816, "layers": 24, "heads": 16, "groups": 16, "head": 64, "vocabulary": 32000, "experts": 4},
    "tiny": SMALL,
    "tiny-moe": {**SMALL, "experts": 4},
}
CHOICES = 2


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class Attention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.head, self.groups, self.heads = size["head"], size["groups"], size["heads"]
        self.qkv = nn.Linear(size["hidden"], (self.heads + 2 * self.groups) * self.head, bias=False)
        self.out = nn.Linear(self.heads * self.head, size["hidden"], bias=False)

    def forward(self, x, cos, sin):
        batch, length, _ = x.shape
        q, k, v = self.qkv(x).view(batch, length, -1, self.head).transpose(1, 2).split((self.heads, self.groups, self.groups), 1)

        def rotate(y):
            low, high = y.chunk(2, -1)
            return torch.cat((low * cos - high * sin, high * cos + low * sin), -1).to(v.dtype)

        y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True, enable_gqa=self.groups != self.heads)
        return self.out(y.transpose(1, 2).reshape(batch, length, -1))


class Dense(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.gate_up = nn.Linear(size["hidden"], 2 * size["inner"], bias=False)
        self.down = nn.Linear(size["inner"], size["hidden"], bias=False)

    def forward(self, x):
        return self.down(swiglu(self.gate_up(x)))


class Mixture(nn.Module):
    """Tokens sorted by expert; products by torch._grouped_mm, or by a loop over experts where there is none (which waits for the sizes)."""

    def __init__(self, size, grouped):
        super().__init__()
        experts = size["experts"]
        self.grouped = grouped
        self.router = nn.Linear(size["hidden"], experts, bias=False)
        self.gate_up = nn.Parameter(0.02 * torch.randn(experts, 2 * size["inner"], size["hidden"]))
        self.down = nn.Parameter(0.02 * torch.randn(experts, size["hidden"], size["inner"]))

    def forward(self, x):
        rows = x.reshape(-1, x.shape[-1])
        kept, chosen = torch.topk(self.router(rows), CHOICES, -1)
        weights = torch.softmax(kept.float(), -1)
        order = torch.sort(chosen.view(-1), stable=True)
        token = order.indices // CHOICES
        experts = self.down.shape[0]
        if self.grouped:
            ends = torch.searchsorted(order.values, torch.arange(1, experts + 1, device=x.device)).to(torch.int32)
            inside = swiglu(torch._grouped_mm(rows[token].bfloat16(), self.gate_up.bfloat16().transpose(1, 2), offs=ends))
            y = torch._grouped_mm(inside, self.down.bfloat16().transpose(1, 2), offs=ends)
        else:
            sizes = torch.bincount(order.values, minlength=experts).tolist()
            parts = torch.split(rows[token], sizes)
            y = torch.cat([F.linear(swiglu(F.linear(part, self.gate_up[e])), self.down[e]) for e, part in enumerate(parts)])
        y = y * weights.view(-1)[order.indices][:, None].to(y.dtype)
        return torch.zeros_like(rows).index_add(0, token, y.to(rows.dtype)).view_as(x)


class Model(nn.Module):
    def __init__(self, size, sequence, grouped):
        super().__init__()
        hidden = size["hidden"]
        self.embedding = nn.Embedding(size["vocabulary"], hidden)
        self.attention = nn.ModuleList(Attention(size) for _ in range(size["layers"]))
        self.feed_forward = nn.ModuleList(Mixture(size, grouped) if "experts" in size else Dense(size) for _ in range(size["layers"]))
        self.norms = nn.ParameterList(torch.ones(hidden) for _ in range(2 * size["layers"] + 1))
        self.out = nn.Linear(hidden, size["vocabulary"], bias=False)
        angles = torch.arange(sequence)[:, None] / 1e4 ** (torch.arange(0, size["head"], 2) / size["head"])
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for i, (attention, feed_forward) in enumerate(zip(self.attention, self.feed_forward)):
            x = x + attention(F.rms_norm(x, x.shape[-1:], self.norms[2 * i], 1e-5), self.cos, self.sin)
            x = x + feed_forward(F.rms_norm(x, x.shape[-1:], self.norms[2 * i + 1], 1e-5))
        logits = self.out(F.rms_norm(x, x.shape[-1:], self.norms[-1], 1e-5))
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--model", default="dense-1.1b", choices=SIZES)
    options.add_argument("--device", default="cuda")
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--sequence", type=int, default=2048)
    options.add_argument("--steps", type=int, default=10)
    options.add_argument("--peak", type=float)
    arguments = options.parse_args()
    size, device = SIZES[arguments.model], torch.device(arguments.device)
    grouped = device.type == "cuda" and hasattr(torch, "_grouped_mm")
    torch.manual_seed(0)
    with device:
        model = Model(size, arguments.sequence, grouped)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)
    ids = torch.arange(arguments.batch * arguments.sequence + 1, device=device) * 7919 % size["vocabulary"]
    tokens, targets = (part.view(arguments.batch, arguments.sequence) for part in (ids[:-1], ids[1:]))
    times, losses = [], []
    for i in range(arguments.steps + 4):
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = compiled(tokens, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if i >= 4:
            times.append(time.perf_counter() - start)
    seconds = sorted(times)[len(times) // 2]
    # As training_bench.mjs counts them.
    attention = size["hidden"] * size["head"] * (2 * size["heads"] + 2 * size["groups"])
    choices, experts = (CHOICES, size["experts"]) if "experts" in size else (1, 0)
    per_layer = attention + 3 * size["hidden"] * size["inner"] * choices + size["hidden"] * experts
    count = arguments.batch * arguments.sequence
    weights = size["layers"] * per_layer + size["hidden"] * size["vocabulary"]
    tflops = count * (6 * weights + 6 * size["layers"] * arguments.sequence * size["heads"] * size["head"]) / seconds / 1e12
    result = {
        "name": f"training step {arguments.model} {arguments.batch}x{arguments.sequence}",
        "torch": torch.__version__,
        "experts": "torch._grouped_mm" if grouped else "loop",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "milliseconds": seconds * 1e3,
        "tokens_per_second": count / seconds,
        "tflops": tflops,
        "losses": [losses[0], losses[-1]],
    }
    if arguments.peak:
        result["peak_tflops"] = arguments.peak
        result["share"] = tflops / arguments.peak
    if device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    print(json.dumps(result, indent=1))


main()
