"""A tiny LlamaForSequenceClassification as transformers saves it, with its scores of padded rows."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save
from transformers import LlamaConfig, LlamaForSequenceClassification

from models import SHAPE

PADDING = 2
LENGTHS = (5, 12, 9, 1)
WIDTH = 12


def reward_model() -> LlamaForSequenceClassification:
    # Tied: a classifier has no output projection.
    config = LlamaConfig(
        **{**SHAPE, "hidden_size": 16, "intermediate_size": 24, "tie_word_embeddings": True},
        num_labels=1,
        pad_token_id=PADDING,
        attn_implementation="eager",
    )
    model = LlamaForSequenceClassification(config)
    stream = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=stream)
            if "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(noise * (0.5 if "embed_tokens" in name else parameter.shape[-1] ** -0.5))
    return model.eval()


def record(model: LlamaForSequenceClassification) -> dict[str, torch.Tensor]:
    """ids and scores of rows padded behind (all 0 where masked), which transformers reads at the last token that is no padding."""
    stream = torch.Generator().manual_seed(12)
    ids = torch.randint(3, SHAPE["vocab_size"], (len(LENGTHS), WIDTH), generator=stream)
    mask = torch.arange(WIDTH)[None] < torch.tensor(LENGTHS)[:, None]
    ids = torch.where(mask, ids, PADDING)
    with torch.no_grad():
        scores = model(input_ids=ids, attention_mask=mask.long()).logits[:, 0]
    return {"input_ids": ids.int(), "lengths": torch.tensor(LENGTHS).int(), "scores": scores}


def write(directory: Path) -> None:
    model = reward_model()
    directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        for name in ("config.json", "model.safetensors"):
            shutil.copy(Path(scratch) / name, directory / name)
    (directory / "expected.safetensors").write_bytes(save(record(model), metadata={"padding": json.dumps(PADDING)}))
