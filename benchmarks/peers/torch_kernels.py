"""Single kernels in PyTorch. Each function returns a function that does the work once; `wrap` is torch.compile or nothing.

Layouts are those that a PyTorch user has: transposed operands are views, attention is on views of [batch, sequence, heads, head_dim].
"""

import time

import torch
import torch.nn.functional as F
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock


def uniform(*shape: int, grad: bool = False) -> torch.Tensor:
    return (torch.rand(*shape) * 2 - 1).requires_grad_(grad)


def without_grad(function, *arguments):
    def work():
        with torch.no_grad():
            return function(*arguments)

    return work


def with_grad(function, inputs, upstream):
    """Forward and backward of `function`, whose gradients are thrown away."""

    def work():
        return torch.autograd.grad(function(*inputs), inputs, upstream)

    return work


def backward_alone(function, inputs, upstream):
    output = function(*inputs)
    return lambda: torch.autograd.grad(output, inputs, upstream, retain_graph=True)


def matmul(wrap, m, k, n, transpose_a, transpose_b):
    a = uniform(k, m).T if transpose_a else uniform(m, k)
    b = uniform(n, k).T if transpose_b else uniform(k, n)
    out = torch.empty(m, n)
    return without_grad(wrap(lambda x, y: torch.matmul(x, y, out=out)), a, b)


def linear_gelu(wrap, m, k, n, bias):
    x, weight, offset = uniform(m, k), uniform(n, k), uniform(n) if bias else None
    return without_grad(wrap(lambda x: F.gelu(F.linear(x, weight, offset), approximate="tanh")), x)


def linear_swiglu(wrap, m, k, n, bias):
    # One product for gate and up, which is the faster way in PyTorch too.
    x, weight = uniform(m, k), uniform(n, k)

    def forward(x):
        gate, up = F.linear(x, weight).chunk(2, dim=-1)
        return F.silu(gate) * up

    return without_grad(wrap(forward), x)


def grouped_matmul(wrap, sizes, k, n):
    x, weight = uniform(sum(sizes), k), uniform(len(sizes), n, k)
    out = torch.empty(sum(sizes), n)

    def forward(x):
        start = 0
        for expert, size in enumerate(sizes):
            torch.mm(x[start : start + size], weight[expert].T, out=out[start : start + size])
            start += size
        return out

    return without_grad(wrap(forward), x)


def moe_layer(wrap, tokens, hidden, intermediate, experts, top_k, skew):
    config = MixtralConfig(
        hidden_size=hidden, intermediate_size=intermediate, num_local_experts=experts, num_experts_per_tok=top_k
    )
    x, upstream = uniform(1, tokens, hidden, grad=True), uniform(1, tokens, hidden)
    block = MixtralSparseMoeBlock(config)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    with torch.no_grad():
        # A feature that is always 1 lifts the logits of the first experts over those of the later.
        x[..., 0] = 1
        block.gate.weight[:, 0] = -skew * torch.arange(experts)

    def make(implementation):
        config._experts_implementation = implementation
        forward = wrap(block)

        def work():
            output = forward(x)
            output = output[0] if isinstance(output, tuple) else output
            return torch.autograd.grad(output, [x, *block.parameters()], upstream)

        return work

    return fastest_experts(make)


def fastest_experts(make):
    """transformers' faster way through the experts here: a loop over them, or torch's grouped product."""

    def seconds(implementation):
        work = make(implementation)
        work()
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun

    return make(min(("eager", "grouped_mm"), key=seconds))


def attention(wrap, batch, sequence, heads, key_value_heads, head_dim, backward):
    def heads_first(count):
        return uniform(batch, sequence, count, head_dim).transpose(1, 2).requires_grad_(backward)

    inputs = [heads_first(heads), heads_first(key_value_heads), heads_first(key_value_heads)]
    grouped = heads != key_value_heads
    forward = wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped))
    if not backward:
        return without_grad(forward, *inputs)
    return with_grad(forward, inputs, uniform(batch, sequence, heads, head_dim).transpose(1, 2))


def attention_decode(wrap, batch, sequence, heads, key_value_heads, head_dim):
    # The cache as transformers keeps it: [batch, heads, keys, head_dim].
    q = uniform(batch, heads, 1, head_dim)
    k, v = (uniform(batch, key_value_heads, sequence, head_dim) for _ in range(2))
    grouped = heads != key_value_heads
    return without_grad(wrap(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=grouped)), q, k, v)


def cross_entropy(wrap, tokens, width, vocabulary):
    x, weight = uniform(tokens, width, grad=True), uniform(vocabulary, width, grad=True)
    targets = torch.arange(tokens) * 40503 % vocabulary
    return with_grad(wrap(lambda x, w: F.cross_entropy(F.linear(x, w), targets)), [x, weight], None)


def rms_norm(wrap, rows, width, backward):
    inputs = [uniform(rows, width, grad=backward), uniform(width, grad=backward)]
    forward = wrap(lambda x, w: F.rms_norm(x, (width,), w, 1e-6))
    return backward_alone(forward, inputs, uniform(rows, width)) if backward else without_grad(forward, *inputs)


def swiglu(wrap, rows, width, backward):
    def chunked(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    x = uniform(rows, 2 * width, grad=backward)
    forward = wrap(chunked)
    return backward_alone(forward, [x], uniform(rows, width)) if backward else without_grad(forward, x)


def rope(wrap, batch, sequence, heads, head_dim):
    # transformers' rotate_half.
    x = uniform(batch, sequence, heads, head_dim)
    cosine, sine = uniform(1, sequence, 1, head_dim), uniform(1, sequence, 1, head_dim)

    def forward(x):
        first, second = x.chunk(2, dim=-1)
        return x * cosine + torch.cat((-second, first), dim=-1) * sine

    return without_grad(wrap(forward), x)


def elementwise_chain(wrap, rows, width):
    return without_grad(wrap(lambda a, b, c: F.silu(a * b + c)), *(uniform(rows, width) for _ in range(3)))


def adamw(wrap, rows, width):
    parameter = torch.nn.Parameter(uniform(rows, width))
    parameter.grad = uniform(rows, width)
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    return wrap(optimizer.step)


def sample_tokens(wrap, batch, vocabulary, temperature, top_k, top_p):
    logits = uniform(batch, vocabulary)

    def forward(logits):
        if temperature == 0:
            return logits.argmax(dim=-1)
        scores = logits / temperature
        return torch.multinomial(filtered(scores, top_k, top_p).softmax(dim=-1), num_samples=1)

    return without_grad(wrap(forward), logits)


def conv2d(wrap, images, size, channels, stride, backward):
    # Channels last is the faster layout on a CPU. Two rows and columns of zeros in all, or one at the far side.
    inputs, outputs = channels
    x = uniform(images, inputs, size, size).contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    weight = uniform(outputs, inputs, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_(backward)
    padding = 1
    if stride > 1:
        x = F.pad(x.detach(), (0, 1, 0, 1)).contiguous(memory_format=torch.channels_last).requires_grad_(backward)
        padding = 0
    forward = wrap(lambda x, w: F.conv2d(x, w, stride=stride, padding=padding))
    if not backward:
        return without_grad(forward, x, weight)
    upstream = uniform(images, outputs, size // stride, size // stride).contiguous(memory_format=torch.channels_last)
    return backward_alone(forward, [x, weight], upstream)


def vq_lookup(wrap, rows, width, codes):
    x, codebook = uniform(rows, width), uniform(codes, width)

    def forward(x, codebook):
        return torch.addmm(codebook.square().sum(dim=1), x, codebook.T, alpha=-2).argmin(dim=1)

    return without_grad(wrap(forward), x, codebook)


def filtered(scores, top_k, top_p):
    """The filters of transformers' generation."""
    if top_k > 0:
        threshold = torch.topk(scores, top_k).values[..., -1:]
        scores = scores.masked_fill(scores < threshold, -torch.inf)
    if top_p < 1:
        ordered, order = torch.sort(scores, descending=False)
        removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        removed[..., -1:] = False
        scores = scores.masked_fill(removed.scatter(-1, order, removed), -torch.inf)
    return scores


def masked_diffusion_step(wrap, batch, positions, vocabulary, top_k, top_p):
    logits, unconditional = uniform(batch, positions, vocabulary), uniform(batch, positions, vocabulary)
    tokens = torch.arange(batch * positions) % vocabulary
    tokens[::2] = vocabulary
    tokens = tokens.view(batch, positions)
    kept = positions // 4

    def forward(logits, unconditional, tokens):
        # Only what is masked is worked on: every sequence has as many masked positions.
        masked = tokens == vocabulary
        guided = 3 * logits[masked] - 2 * unconditional[masked]
        drawn = torch.multinomial(filtered(guided, top_k, top_p).softmax(dim=-1), num_samples=1)
        noise = -torch.log(-torch.log(torch.rand(drawn.shape)))
        confidence = guided.log_softmax(dim=-1).gather(1, drawn) + noise
        everywhere = torch.full(tokens.shape, torch.inf).masked_scatter(masked, confidence)
        sampled = tokens.masked_scatter(masked, drawn)
        return sampled.scatter(1, everywhere.topk(kept, largest=False).indices, vocabulary)

    return without_grad(wrap(forward), logits, unconditional, tokens)


def empty_step(wrap):
    counter, one = torch.zeros(()), torch.ones(())
    return without_grad(wrap(lambda: counter.add_(one)))
