"""Tiny Hugging Face folders with what transformers computes from them: logits, loss, gradients and a training curve."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, PreTrainedModel

VOCABULARY = 96
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
}

# Long enough that llama3 scaling meets kept, blended and slowed frequencies.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# The training run, one place for both the numbers and the note in the fixture.
TRAINING = {
    "steps": 20,
    "learningRate": 3e-3,
    "beta1": 0.9,
    "beta2": 0.95,
    "epsilon": 1e-8,
    "weightDecay": 0.1,
    "maxGradientNorm": 1.0,
}

# Routing by a gap that rounding could close would make the Mixtral curve a coin toss.
SMALLEST_ROUTING_GAP = 1e-4


def variants() -> dict[str, PreTrainedModel]:
    """The models, each with random weights large enough that its logits are far from uniform."""

    def llama(**changes) -> LlamaForCausalLM:
        return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes}, attn_implementation="eager"))

    mixtral = MixtralConfig(
        **SHAPE,
        num_local_experts=4,
        num_experts_per_tok=2,
        router_aux_loss_coef=0.02,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        attn_implementation="eager",
        experts_implementation="eager",
    )
    models = {
        "mha": llama(num_key_value_heads=4),
        "gqa": llama(),
        "tied": llama(tie_word_embeddings=True),
        "llama3": llama(head_dim=16, max_position_embeddings=256, rope_parameters=LLAMA3_ROPE),
        "mixtral": MixtralForCausalLM(mixtral),
    }
    for seed, model in enumerate(models.values(), start=1):
        stream = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=stream)
                if "norm" in name:
                    parameter.copy_(1 + 0.2 * noise)
                elif "embed_tokens" in name or name.endswith("mlp.gate.weight"):
                    parameter.copy_(0.5 * noise)
                else:
                    parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        model.eval()
    return models


def batches() -> tuple[torch.Tensor, torch.Tensor]:
    """ids and labels, [steps, 2, 24] i64: walks with a fixed step, which can be learnt; some labels are -100."""
    stream = torch.Generator().manual_seed(100)
    start = torch.randint(0, VOCABULARY, (TRAINING["steps"], 2, 1), generator=stream)
    stride = torch.randint(1, 4, (TRAINING["steps"], 2, 1), generator=stream)
    ids = (start + stride * torch.arange(24)) % VOCABULARY
    noisy = torch.rand(ids.shape, generator=stream) < 0.1
    ids = torch.where(noisy, torch.randint(0, VOCABULARY, ids.shape, generator=stream), ids)
    labels = ids.clone()
    labels[torch.rand(ids.shape, generator=stream) < 0.15] = -100
    return ids, labels


def folder_names(model: PreTrainedModel) -> dict[str, tuple[str, tuple]]:
    """Disk name -> (parameter, index into it): Mixtral's experts are two tensors in memory, w1, w2, w3 on disk."""
    names: dict[str, tuple[str, tuple]] = {}
    for name, parameter in model.named_parameters():
        if ".mlp.experts." in name:
            prefix = name.split(".mlp.experts.")[0] + ".block_sparse_moe.experts"
            half = parameter.shape[1] // 2
            for expert in range(parameter.shape[0]):
                if name.endswith("gate_up_proj"):
                    names[f"{prefix}.{expert}.w1.weight"] = (name, (expert, slice(0, half)))
                    names[f"{prefix}.{expert}.w3.weight"] = (name, (expert, slice(half, None)))
                else:
                    names[f"{prefix}.{expert}.w2.weight"] = (name, (expert,))
        else:
            names[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = (name, ())
    return names


def check_routing(router_logits: tuple[torch.Tensor, ...], k: int) -> None:
    for logits in router_logits:
        kept = logits.detach().sort(-1, descending=True).values
        gap = (kept[:, k - 1] - kept[:, k]).min().item()
        assert gap > SMALLEST_ROUTING_GAP, f"two experts are {gap:.2g} apart: choose another seed"


def forward(model: PreTrainedModel, ids: torch.Tensor, labels: torch.Tensor):
    options = {"output_router_logits": True} if model.config.model_type == "mixtral" else {}
    result = model(input_ids=ids, labels=labels, **options)
    if options:
        check_routing(result.router_logits, model.config.num_experts_per_tok)
    return result


def record(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    ids, labels = batches()
    names = folder_names(model)
    tensors = {"input_ids": ids[0].int(), "labels": labels[0].int(), "batches": ids.int(), "batch_labels": labels.int()}

    result = forward(model, ids[0], labels[0])
    tensors["logits"] = result.logits
    if getattr(result, "aux_loss", None) is not None:
        tensors["auxiliary_loss"] = result.aux_loss
        for index, logits in enumerate(result.router_logits):
            tensors[f"router_logits.{index}"] = logits
        tensors["loss_with_auxiliary"] = result.loss
        result = model(input_ids=ids[0], labels=labels[0])
    tensors["loss"] = result.loss
    result.loss.backward()
    parameters = dict(model.named_parameters())
    for disk, (name, index) in names.items():
        tensors[f"grad.{disk}"] = parameters[name].grad[index]

    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=TRAINING["learningRate"],
        betas=(TRAINING["beta1"], TRAINING["beta2"]),
        eps=TRAINING["epsilon"],
        weight_decay=TRAINING["weightDecay"],
        foreach=False,
    )
    losses, norms = [], []
    for step in range(TRAINING["steps"]):
        optimizer.zero_grad()
        if model.config.model_type == "mixtral":
            with torch.no_grad():
                forward(model, ids[step], labels[step])
        loss = model(input_ids=ids[step], labels=labels[step]).loss
        loss.backward()
        norms.append(
            torch.nn.utils.clip_grad_norm_(model.parameters(), TRAINING["maxGradientNorm"], foreach=False).item()
        )
        losses.append(loss.item())
        optimizer.step()
    tensors["training.losses"] = torch.tensor(losses)
    tensors["training.gradient_norms"] = torch.tensor(norms)
    kept = (
        "embed_tokens",
        "model.norm",
        "layers.1.self_attn.q_proj",
        "layers.0.input_layernorm",
        "gate.weight",
        "experts.2.w2",
    )
    for disk, (name, index) in names.items():
        if any(part in disk for part in kept):
            tensors[f"trained.{disk}"] = parameters[name].detach()[index]
    return {name: value.detach().contiguous().clone() for name, value in tensors.items()}


def write(directory: Path) -> None:
    """directory/<variant>/{config.json, generation_config.json, model.safetensors, expected.safetensors}."""
    for variant, model in variants().items():
        target = directory / variant
        target.mkdir(parents=True)
        with tempfile.TemporaryDirectory() as scratch:
            model.save_pretrained(scratch)
            for name in ("config.json", "generation_config.json", "model.safetensors"):
                shutil.copy(Path(scratch) / name, target / name)
        # One metadata key: the library does not keep the order of several.
        note = {"fixture": json.dumps({"training": TRAINING, "variant": variant}, sort_keys=True)}
        (target / "expected.safetensors").write_bytes(save(record(model), note))
