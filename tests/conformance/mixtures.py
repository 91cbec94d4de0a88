"""Mixtures merged in PyTorch after Branch-Train-MiX, with the logits and tensor names that transformers has for them.

The experts are `llama/gqa` and the same with every weight halved and its hidden units rotated by 5, both exact in f32.
"""

import json
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from transformers import MixtralConfig, MixtralForCausalLM

ROTATION = 5


def second(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Halved; the feed-forward layer computes with its hidden units in another order, so that chunks differ."""
    other = {}
    for name, value in weights.items():
        if name.endswith(("gate_proj.weight", "up_proj.weight")):
            value = value.roll(ROTATION, 0)
        elif name.endswith("down_proj.weight"):
            value = value.roll(ROTATION, 1)
        other[name] = value / 2
    return other


def arranged(pair: list[dict], layer: int, kind: str) -> list[tuple[torch.Tensor, ...]]:
    """(w1, w3, w2) of each expert."""
    stem = f"model.layers.{layer}.mlp"
    whole = [tuple(each[f"{stem}.{name}_proj.weight"] for name in ("gate", "up", "down")) for each in pair]
    half = whole[0][0].shape[0] // 2

    def piece(expert: int, chunk: int) -> tuple[torch.Tensor, ...]:
        rows = slice(chunk * half, (chunk + 1) * half)
        w1, w3, w2 = whole[expert]
        return w1[rows], w3[rows], w2[:, rows]

    if kind == "whole":
        return whole
    if kind == "split":
        pieces = [piece(expert, chunk) for expert in range(2) for chunk in range(2)]
        return [(w1, w3, 2 * w2) for w1, w3, w2 in pieces]
    joined = [[piece(expert, chunk) for expert in range(2)] for chunk in range(2)]
    return [(torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]]), torch.cat([a[2], b[2]], 1)) for a, b in joined]


def merged(pair: list[dict], config: dict, kind: str, k: int) -> tuple[MixtralForCausalLM, list[torch.Tensor]]:
    experts = len(arranged(pair, 0, kind))
    width = arranged(pair, 0, kind)[0][0].shape[0]
    kept = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    sizes = {name: config[name] for name in (*kept, "max_position_embeddings", "rms_norm_eps", "head_dim")}
    settings = MixtralConfig(
        **sizes,
        intermediate_size=width,
        num_local_experts=experts,
        num_experts_per_tok=k,
        rope_parameters=config["rope_parameters"],
        sliding_window=None,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = MixtralForCausalLM(settings).eval()
    parameters = dict(model.named_parameters())
    stream = torch.Generator().manual_seed(7)
    routers = []
    with torch.no_grad():
        for name, value in pair[0].items():
            if ".mlp." not in name:
                parameters[name].copy_((value + pair[1][name]) / 2)
        for layer in range(config["num_hidden_layers"]):
            stem = f"model.layers.{layer}.mlp"
            for expert, (w1, w3, w2) in enumerate(arranged(pair, layer, kind)):
                parameters[f"{stem}.experts.gate_up_proj"][expert].copy_(torch.cat([w1, w3]))
                parameters[f"{stem}.experts.down_proj"][expert].copy_(w2)
            routers.append(torch.randn(experts, config["hidden_size"], generator=stream))
            parameters[f"{stem}.gate.weight"].copy_(routers[-1])
    return model, routers


def names(model: MixtralForCausalLM, legacy: bool) -> dict[str, list[int]]:
    """Names and shapes of what save_pretrained writes."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, save_original_format=legacy)
        with safe_open(Path(folder) / "model.safetensors", "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in sorted(file.keys())}


def document(source: Path) -> bytes:
    config = json.loads((source / "config.json").read_text())
    first = load_file(source / "model.safetensors")
    pair = [first, second(first)]
    ids = load_file(source / "expected.safetensors")["input_ids"]
    tensors = {"input_ids": ids}
    layouts = {}
    for kind, k in (("whole", 1), ("whole", 2), ("split", 2), ("split", 3), ("blend", 2)):
        model, routers = merged(pair, config, kind, k)
        with torch.no_grad():
            tensors[f"{kind}.{k}.logits"] = model(input_ids=ids.long()).logits
        for layer, router in enumerate(routers):
            tensors[f"{kind}.{k}.router.{layer}"] = router
        if (kind, k) == ("whole", 2):
            layouts = {"legacy": names(model, True), "fused": names(model, False)}
    note = {"fixture": json.dumps({"rotation": ROTATION, "layouts": layouts}, sort_keys=True)}
    return save({name: value.contiguous() for name, value in tensors.items()}, note)
