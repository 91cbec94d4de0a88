"""Makes the fixtures of packages/core/test/{io,text}: files as the Python libraries write them.

Needs torch, safetensors, transformers and tokenizers. Run from the repository root:
  python tests/conformance/make_io_fixtures.py
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, MistralConfig, MixtralConfig

here = Path(__file__).parent
out = here / "fixtures" / "io"
out.mkdir(parents=True, exist_ok=True)


def safetensors_files():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, generator=generator)
    save_file(
        {
            "float": values,
            "double": values.double(),
            "half": values.half(),
            "brain": values.bfloat16(),
            "long": torch.arange(-2, 3),
            "int": torch.arange(3, dtype=torch.int32),
            "short": torch.arange(3, dtype=torch.int16),
            "byte": torch.arange(5, dtype=torch.uint8),
            "signed": torch.arange(-1, 2, dtype=torch.int8),
            "bool": torch.tensor([True, False, True]),
            "scalar": torch.tensor(2.5),
            "empty": torch.zeros(0, 7),
            "12": torch.ones(1),
            'name with "quotes", \n and é': torch.ones(2),
            "\uffee": torch.ones(1),
            "\U0001f600": torch.ones(1),
        },
        out / "dtypes.safetensors",
        {"format": "pt"},
    )
    # Float32 values around every rounding boundary of float16 and bfloat16, and torch's own casts of them.
    bits = torch.randint(-(2**31), 2**31, (1500,), generator=generator, dtype=torch.int64).to(torch.int32)
    halves = torch.randint(0, 2**16, (300,), generator=generator, dtype=torch.int64).to(torch.int32)
    boundary = torch.cat([(halves << 16) + offset for offset in (0x7FFF, 0x8000, 0x8001)])
    small = (torch.rand(300, generator=generator) * 2**-13).view(torch.int32)
    f16_grid = (
        torch.arange(0, 2**15, 67, dtype=torch.int32).to(torch.int16).view(torch.float16).float().view(torch.int32)
    )
    ties = torch.cat([f16_grid + offset for offset in (0, 0x0FFF, 0x1000, 0x1001)])
    special = torch.tensor(
        [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 65504, 65519.99, 65520, 2**-25, 2**-24, 1e-45, 3.4e38]
    )
    f32 = torch.cat([bits, boundary, small, ties, special.view(torch.int32)]).view(torch.float32)
    save_file({"f32": f32, "f16": f32.half(), "bf16": f32.bfloat16()}, out / "half.safetensors")


def configs():
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    }
    small = dict(vocab_size=258, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4)
    made = {
        "llama-default": LlamaConfig(),
        "mistral-default": MistralConfig(),
        "mixtral-default": MixtralConfig(),
        "llama3": LlamaConfig(
            **small,
            num_key_value_heads=2,
            max_position_embeddings=4096,
            tie_word_embeddings=True,
            rope_parameters={**llama3, "rope_theta": 5e5},
            eos_token_id=[5, 6],
            dtype="bfloat16",
        ),
        "mixtral": MixtralConfig(
            **small, num_key_value_heads=2, head_dim=32, num_local_experts=4, rope_theta=1e4, pad_token_id=0
        ),
        "mistral-nowindow": MistralConfig(**small, num_key_value_heads=4, sliding_window=None, rope_theta=123.0),
    }
    (out / "configs.json").write_text(
        json.dumps({name: c.to_dict() for name, c in made.items()}, indent=1, sort_keys=True) + "\n"
    )


def bpe():
    """Our trainer is compared with this one: same text, same size, same tie-breaking."""
    text = (out / "corpus.txt").read_bytes().decode()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        min_frequency=2,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    texts = json.loads((out / "texts.json").read_bytes().decode())
    result = {
        "vocab": model["vocab"],
        "merges": model["merges"],
        "encodings": [tokenizer.encode(t).ids for t in texts],
    }
    (out / "bpe.json").write_text(json.dumps(result, ensure_ascii=False) + "\n")


safetensors_files()
configs()
bpe()
