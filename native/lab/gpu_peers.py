"""Times PyTorch on the lines of cuda_bench, in bf16: `python gpu_peers.py bench.json…` adds to each line that has peers `peers` (the
milliseconds of each), `peer_milliseconds` (of the fastest) and `ratio` (that over ours; above 1 we are faster). `not_recorded` names peers
that could not be recorded as CUDA graphs, as our lines are: their time has PyTorch's own work on the host in it. Lines of one name in
several files share the peers. The files are written after each line, and lines that have their peers already are passed over: what was
stopped goes on where it was; products, attention and layers come first. `--device cpu` runs every peer without timing it well: to see that
they run at all, on lines with small shapes."""

import argparse
import contextlib
import functools
import itertools
import json
import os
import re
import sys
import time

import torch
import torch._dynamo
import torch._functorch.config
import torch.nn.functional as F

OPTIONS = argparse.ArgumentParser(description=__doc__)
OPTIONS.add_argument("bench", nargs="+")
OPTIONS.add_argument("--device", default="cuda")
ARGUMENTS = OPTIONS.parse_args()
DEVICE = torch.device(ARGUMENTS.device)
# A backward pass runs on the stream of its forward pass: both are on the one that is recorded, or backward passes could not be.
STREAM = torch.cuda.Stream() if DEVICE.type == "cuda" else None
# A recording that failed can leave PyTorch's generator in the middle of it, an error of a kernel the whole device: what comes after needs a
# new process.
spoilt = False
# Backward passes are timed over and over on one graph, which compiled ones that reuse its buffers refuse.
torch._functorch.config.donated_buffer = False
# For the shapes of a line alone: from the second line on a function would else be compiled for any.
compiled = functools.partial(torch.compile, dynamic=False)


def seconds(body, repetitions=5):
    """Per call, and whether it was recorded: the median of five graphs of ten calls each; of five plain runs where a body cannot be."""
    for _ in range(3):
        body()
    try:
        if DEVICE.type == "cuda":
            return graph_seconds(body, repetitions), True
    except RuntimeError:
        global spoilt
        spoilt = True
        torch.cuda.synchronize()
    times = []
    for _ in range(repetitions):
        synchronize()
        start = time.perf_counter()
        for _ in range(10):
            body()
        synchronize()
        times.append((time.perf_counter() - start) / 10)
    return sorted(times)[repetitions // 2], False


def synchronize():
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def graph_seconds(body, repetitions):
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=STREAM):
        for _ in range(10):
            body()
    times = []
    for _ in range(repetitions):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        graph.replay()
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) * 1e-3 / 10)
    return sorted(times)[repetitions // 2]


def randn(*shape, dtype=torch.float32, grad=False):
    return torch.randn(*shape, device=DEVICE, dtype=dtype, requires_grad=grad)


# Values between ops, in the lines as here: the residual stream that norms read is f32.
BF16 = torch.bfloat16


def swiglu(x):
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


def row_peers(name):
    if match := re.fullmatch(r"rms_norm (\d+)x(\d+)", name):
        x, w = randn(int(match[1]), int(match[2])), randn(int(match[2]))
        yield "eager", lambda: F.rms_norm(x, (x.shape[1],), w, 1e-5).to(BF16)
        yield "compile", compiled(lambda: F.rms_norm(x, (x.shape[1],), w, 1e-5).to(BF16))
    if match := re.fullmatch(r"rms_norm_grad (\d+)x(\d+)", name):
        x, w, dy = randn(int(match[1]), int(match[2]), grad=True), randn(int(match[2]), grad=True), randn(int(match[1]), int(match[2]), dtype=BF16)

        def norm(x, w):
            return F.rms_norm(x, (x.shape[1],), w, 1e-5).to(BF16)

        for label, made in (("eager", norm), ("compile", compiled(norm))):
            y = made(x, w)
            yield label, lambda y=y: torch.autograd.grad(y, (x, w), dy, retain_graph=True)
    if match := re.fullmatch(r"layer_norm (\d+)x(\d+)", name):
        x, w, b = randn(int(match[1]), int(match[2])), randn(int(match[2])), randn(int(match[2]))
        yield "compile", compiled(lambda: F.layer_norm(x, (x.shape[1],), w, b).to(BF16))
    if match := re.fullmatch(r"softmax (\d+)x(\d+)", name):
        x = randn(int(match[1]), int(match[2]))
        yield "eager", lambda: torch.softmax(x, -1)
        yield "compile", compiled(lambda: torch.softmax(x, -1))
    if match := re.fullmatch(r"swiglu (\d+)x(\d+)", name):
        x = randn(int(match[1]), 2 * int(match[2]), dtype=BF16)
        yield "compile", compiled(lambda: swiglu(x))
    if match := re.fullmatch(r"swiglu_grad (\d+)x(\d+)", name):
        x, dy = randn(int(match[1]), 2 * int(match[2]), dtype=BF16, grad=True), randn(int(match[1]), int(match[2]), dtype=BF16)
        y = compiled(swiglu)(x)
        yield "compile", lambda: torch.autograd.grad(y, x, dy, retain_graph=True)
    if match := re.fullmatch(r"rope (\d+)x(\d+)x(\d+)x(\d+)", name):
        batch, length, heads, size = (int(match[i]) for i in range(1, 5))
        x, cos, sin = randn(batch, length, heads, size, dtype=BF16), randn(length, size // 2), randn(length, size // 2)
        positions = torch.arange(length, device=DEVICE).expand(batch, length)

        def rotate():
            c, s = cos[positions][:, :, None], sin[positions][:, :, None]
            low, high = x.chunk(2, -1)
            return torch.cat((low * c - high * s, high * c + low * s), -1).to(BF16)

        yield "compile", compiled(rotate)
    if match := re.fullmatch(r"adamw (\d+)M", name):
        parameter = torch.nn.Parameter(randn(int(match[1]) << 20))
        parameter.grad = randn(int(match[1]) << 20)
        yield "fused", torch.optim.AdamW([parameter], lr=1e-4, fused=True, capturable=DEVICE.type == "cuda").step
    if name.startswith("elementwise"):
        a, b = (randn(1 << (28 if DEVICE.type == "cuda" else 10), dtype=BF16) for _ in range(2))
        yield "compile", compiled(lambda: F.gelu(a * b + 0.5, approximate="tanh"))


def matmul_peers(name):
    if match := re.match(r"matmul (\d+)(?:x(\d+)x(\d+))?", name):
        m, n, k = (int(match[1]),) * 3 if match[2] is None else (int(match[1]), int(match[3]), int(match[2]))
        if "decode" in name:
            m, n, k = 64, 4096, 4096
        if "weight gradient" in name:
            a, b = randn(k, m, dtype=BF16), randn(k, n, dtype=BF16)
            yield "matmul", lambda: torch.matmul(a.t(), b)
        else:
            a, b = randn(m, k, dtype=BF16), randn(n, k, dtype=BF16)
            yield "matmul", lambda: torch.matmul(a, b.t())
    if name.startswith("grouped_matmul"):
        rows, experts, k, n = (8192, 8, 4096, 14336) if "mixtral" in name else (65536, 64, 2048, 1024)
        x = randn(rows, k, dtype=BF16)
        sizes = [rows // experts * (3 + (e % 3 - 1)) // 3 for e in range(experts)]
        sizes[-1] += rows - sum(sizes)
        ends = torch.tensor(sizes, device=DEVICE).cumsum(0).to(torch.int32)
        parts = torch.split(x, sizes)
        if "weight_grad" in name:
            dy = randn(rows, n, dtype=BF16)
            yield "loop", lambda: [torch.matmul(dy_part.t(), part) for dy_part, part in zip(torch.split(dy, sizes), parts)]
            if hasattr(torch, "_grouped_mm"):
                yield "_grouped_mm", lambda: torch._grouped_mm(dy.t(), x, offs=ends)
        else:
            w = randn(experts, n, k, dtype=BF16)
            yield "loop", lambda: [torch.matmul(part, w[e].t()) for e, part in enumerate(parts)]
            if hasattr(torch, "_grouped_mm"):
                yield "_grouped_mm", lambda: torch._grouped_mm(x, w.transpose(1, 2), offs=ends)


def attention_peers(name):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    backends = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION)
    if match := re.match(r"attention decode (\d+)x(\d+)x(\d+)/(\d+)x(\d+) bf16", name):
        batch, length, heads, groups, size = (int(match[i]) for i in range(1, 6))
        q = randn(batch, heads, 1, size, dtype=BF16)
        # As many caches, one after another, as the line has copies: they do not stay in L2.
        copies = max(1, -(-(1 << 28) // (4 * batch * groups * length * size))) if DEVICE.type == "cuda" else 2
        caches = itertools.cycle([[randn(batch, groups, length, size, dtype=BF16) for _ in range(2)] for _ in range(copies)])
        for backend in (*backends, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):

            def decode():
                k, v = next(caches)
                with sdpa_kernel(backend):
                    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

            yield backend.name, decode
        return
    match = re.fullmatch(r"attention(_grad)? (\d+)x(\d+)x(\d+)x(\d+)", name)
    if match is None:
        return
    batch, length, heads, size = (int(match[i]) for i in range(2, 6))
    for backend in backends:
        q, k, v = (randn(batch, heads, length, size, dtype=BF16, grad=match[1] is not None) for _ in range(3))

        def forward():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        if match[1] is None:
            yield backend.name, forward
        else:
            out = forward()
            gradient = torch.randn_like(out)
            yield backend.name, lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True)


def convolution_peers(name):
    match = re.fullmatch(r"conv2d(_input_grad|_weight_grad)? (\d+)x(\d+)x(\d+)x(\d+), 3x3", name)
    if match is None:
        return
    torch.backends.cudnn.benchmark = True
    images, height, width, channels = (int(match[i]) for i in range(2, 6))
    last = torch.channels_last
    x = randn(images, channels, height, width, dtype=BF16).to(memory_format=last).requires_grad_()
    w = randn(channels, channels, 3, 3, dtype=BF16).to(memory_format=last).requires_grad_()
    if match[1] is None:
        yield "eager", lambda: F.conv2d(x.detach(), w.detach(), padding=1)
        return
    y = F.conv2d(x, w, padding=1)
    dy = torch.randn_like(y)
    wanted = x if match[1] == "_input_grad" else w
    yield "eager", lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)


def layer_peers(name):
    """A mixture's layer, forward and backward, by grouped products and by a loop over experts; the loop is given the sizes of the groups,
    which it would else have to wait for."""
    match = re.fullmatch(r"moe layer (\d+) tokens (\d+)x(\d+), (\d+) experts top-(\d+)", name)
    if match is None:
        return
    tokens, hidden, inner, experts, choices = (int(match[i]) for i in range(1, 6))
    x, router = randn(tokens, hidden, dtype=BF16, grad=True), (0.02 * randn(experts, hidden, dtype=BF16)).requires_grad_()
    gate_up = (0.02 * randn(experts, 2 * inner, hidden, dtype=BF16)).requires_grad_()
    down = (0.02 * randn(experts, hidden, inner, dtype=BF16)).requires_grad_()
    dout = randn(tokens, hidden, dtype=BF16)
    sizes = torch.bincount(torch.topk(x @ router.t(), choices, -1).indices.view(-1), minlength=experts).tolist()

    def grouped(rows, ends):
        inside = swiglu(torch._grouped_mm(rows, gate_up.transpose(1, 2), offs=ends))
        return torch._grouped_mm(inside, down.transpose(1, 2), offs=ends)

    def looped(rows, ends):
        return torch.cat([swiglu(part @ gate_up[e].t()) @ down[e].t() for e, part in enumerate(torch.split(rows, sizes))])

    def layer(products):
        kept, chosen = torch.topk(x @ router.t(), choices, -1)
        weights = torch.softmax(kept, -1)
        order = torch.sort(chosen.view(-1), stable=True)
        ends = torch.searchsorted(order.values, torch.arange(1, experts + 1, device=DEVICE)).to(torch.int32)
        token = order.indices // choices
        y = products(x[token], ends) * weights.view(-1)[order.indices][:, None]
        out = torch.zeros_like(x).index_add(0, token, y)
        return torch.autograd.grad(out, (x, router, gate_up, down), dout)

    for label, products in (("_grouped_mm", grouped), ("loop", looped)):
        if products is looped or hasattr(torch, "_grouped_mm"):
            yield label, lambda products=products: layer(products)
            yield f"{label}, compile", compiled(lambda products=products: layer(products))


def loss_peers(name):
    match = re.fullmatch(r"linear_cross_entropy (\d+)x(\d+)x(\d+)", name)
    if match is None:
        return
    rows, width, classes = (int(match[i]) for i in range(1, 4))
    x = randn(rows, width, dtype=BF16, grad=True)
    w = (0.05 * randn(classes, width, dtype=BF16)).requires_grad_()
    targets = torch.randint(classes, (rows,), device=DEVICE)
    loss = compiled(lambda x, w: F.cross_entropy((x @ w.t()).float(), targets))
    yield "compile", lambda: torch.autograd.grad(loss(x, w), (x, w))


def code_peers(name):
    if match := re.fullmatch(r"vq_lookup (\d+)x(\d+)x(\d+)", name):
        x, codes = randn(int(match[1]), int(match[3])), randn(int(match[2]), int(match[3]))

        def nearest():
            return (codes.square().sum(1) - 2 * (x @ codes.t())).argmin(1)

        yield "eager", nearest
        yield "compile", compiled(nearest)
    if match := re.fullmatch(r"masked_diffusion_step (\d+)x(\d+)x(\d+)", name):
        batch, length, codes = (int(match[i]) for i in range(1, 4))
        conditional, unconditional = randn(batch, length, codes), randn(batch, length, codes)
        tokens = torch.full((batch, length), -1, device=DEVICE)
        remaining = length // 2

        def step():
            guided = 3.0 * conditional - 2.0 * unconditional
            log_p = torch.log_softmax(guided, -1)
            noise = -torch.log(-torch.log(torch.rand_like(guided)))
            sampled = (guided + noise).argmax(-1)
            confidence = log_p.gather(-1, sampled[..., None])[..., 0]
            confidence = confidence - torch.log(-torch.log(torch.rand_like(confidence)))
            masked = tokens == -1
            confidence = torch.where(masked, confidence, torch.inf)
            rank = confidence.argsort(-1).argsort(-1)
            return torch.where(rank < remaining, -1, torch.where(masked, sampled, tokens))

        yield "eager", step
        yield "compile", compiled(step)


PEERS = (row_peers, matmul_peers, attention_peers, convolution_peers, layer_peers, loss_peers, code_peers)


FIRST = ("matmul", "attention", "grouped_matmul", "moe", "linear_cross_entropy")


def peers_of(name):
    """The fields that a line of this name gets. What a peer that does not run says is one; without peers there are none of them."""
    fields = {"peers": {}}
    for peers in PEERS:
        torch._dynamo.reset()
        candidates = peers(name)
        while True:
            try:
                label, body = next(candidates)
                spent, recorded = seconds(body)
                fields["peers"][label] = spent * 1e3
                if DEVICE.type == "cuda" and not recorded:
                    fields.setdefault("not_recorded", []).append(label)
            except StopIteration:
                break
            except Exception as error:  # one peer that does not run must not hide the others
                message = (str(error).splitlines() or [repr(error)])[0][:200]
                fields.setdefault("peer_errors", []).append(message)
                if "CUDA error" in message:
                    global spoilt
                    spoilt = True
                    break
            body = None
            if DEVICE.type == "cuda":
                torch.cuda.empty_cache()
    return fields


def write(path, report):
    with open(path + ".part", "w") as file:
        json.dump(report, file, indent=1)
    os.replace(path + ".part", path)


def main(paths):
    reports = []
    for path in paths:
        with open(path) as file:
            reports.append(json.load(file))
    lines = [line for report in reports for line in report["lines"] if "milliseconds" in line]
    names = sorted(dict.fromkeys(line["name"] for line in lines), key=lambda name: not name.startswith(FIRST))
    for name in names:
        same = [line for line in lines if line["name"] == name]
        if all("peers" in line for line in same):
            continue
        known = next((line for line in same if "peers" in line), None)
        fields = {key: known[key] for key in ("peers", "not_recorded", "peer_errors") if key in known} if known else peers_of(name)
        for line in same:
            line.update(fields)
            if line["peers"]:
                line["peer_milliseconds"] = min(line["peers"].values())
                line["ratio"] = line["peer_milliseconds"] / line["milliseconds"]
        print(name, [line.get("ratio") for line in same], fields["peers"], fields.get("peer_errors", ""), flush=True)
        for path, report in zip(paths, reports):
            report["torch"] = torch.__version__
            write(path, report)
        if spoilt:
            os.execv(sys.executable, [sys.executable, *sys.argv])


with torch.cuda.stream(STREAM) if STREAM else contextlib.nullcontext():
    main(ARGUMENTS.bench)
