"""Attention against its definition: every probability written out, in f64."""

import torch

from recorder import Draw, Recorder


def attention(causal: bool, scale: float):
    def function(q, k, v, key_lengths=None, segments=None):
        batch, queries, heads, _ = q.shape
        keys, groups = k.shape[1], k.shape[2]
        k = k.repeat_interleave(heads // groups, dim=2)
        v = v.repeat_interleave(heads // groups, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) * scale
        lengths = torch.full((batch,), keys) if key_lengths is None else key_lengths.long()
        key = torch.arange(keys)
        seen = (key < lengths[:, None])[:, None, None, :].expand(batch, 1, queries, keys)
        if causal:
            last = lengths[:, None] - queries + torch.arange(queries)  # [batch, queries]
            seen = seen & (key <= last[:, :, None])[:, None]
        if segments is not None:
            seen = seen & (segments[:, :, None] == segments[:, None, :])[:, None]
        lse = torch.logsumexp(scores.masked_fill(~seen, -torch.inf), -1)
        some = seen.any(-1, keepdim=True)
        # A query that sees no key gives zeros; its scores are kept finite so that its gradient is zero and not NaN.
        probabilities = torch.softmax(scores.masked_fill(~seen & some, -torch.inf), -1) * some
        return torch.einsum("bhqk,bkhd->bqhd", probabilities, v), lse.detach()

    return function


def record(suite: Recorder) -> None:
    def add(case, queries, keys, heads=2, groups=2, size=8, causal=False, scale=None, lengths=None, segments=None):
        draw = Draw(f"attention/{case}")
        inputs = [
            draw.normal(2, queries, heads, size),
            draw.normal(2, keys, groups, size),
            draw.normal(2, keys, groups, size),
            None if lengths is None else torch.tensor(lengths, dtype=torch.int32),
            None if segments is None else torch.tensor(segments, dtype=torch.int32),
        ]
        scale = size**-0.5 if scale is None else scale
        suite.case("attention", case, attention(causal, scale), inputs, {"causal": causal, "scale": scale})

    add("full", 5, 5)
    add("causal", 6, 6, causal=True)
    add("cross", 3, 7)
    add("scale", 4, 4, scale=0.7)
    add("grouped", 5, 5, heads=4, groups=2, causal=True)
    add("one_group", 5, 5, heads=4, groups=1, causal=True)
    add("key_lengths", 4, 6, lengths=[6, 2])
    add("causal_key_lengths", 5, 5, causal=True, lengths=[5, 3])
    add("no_key", 3, 4, lengths=[0, 4])
    add("decode", 1, 9, heads=4, groups=2, causal=True, lengths=[9, 4])
    add("causal_suffix", 3, 8, causal=True)
    add("segments", 6, 6, causal=True, segments=[[0, 0, 0, 1, 1, 1], [4, 4, 2, 2, 2, 7]])
    add("tiles", 70, 70, heads=2, groups=1, size=16, causal=True)

    # Scores around 112, where exp overflows in f32, of whole numbers: the scores themselves carry no rounding.
    draw = Draw("attention/large_scores")
    queries, keys = draw.integers(2, 5, 2, 8, low=3, high=5), 8 + draw.integers(2, 5, 2, 8, low=-1, high=2)
    inputs = [queries.double(), keys.double(), draw.normal(2, 5, 2, 8)]
    suite.case("attention", "large_scores", attention(True, 0.5), inputs, {"causal": True, "scale": 0.5})
