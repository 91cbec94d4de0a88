"""Training steps and generation with transformers' Llama and Mixtral. `wrap` is torch.compile or nothing."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM

from torch_kernels import fastest_experts


def build(config: dict):
    common = dict(
        vocab_size=config["vocabSize"],
        hidden_size=config["hiddenSize"],
        intermediate_size=config["intermediateSize"],
        num_hidden_layers=config["layers"],
        num_attention_heads=config["heads"],
        num_key_value_heads=config["keyValueHeads"],
        max_position_embeddings=config["maxPositions"],
        rms_norm_eps=config["rmsNormEps"],
        tie_word_embeddings=config["tieWordEmbeddings"],
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    experts = config.get("experts")
    if not experts:
        return LlamaForCausalLM(LlamaConfig(**common))
    return MixtralForCausalLM(
        MixtralConfig(**common, num_local_experts=experts, num_experts_per_tok=config["expertsPerToken"])
    )


def train_step(wrap, config, batch, sequence, bf16):
    model = build(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    ids = (torch.arange(batch * sequence) * 7 % 251).view(batch, sequence)

    def make(implementation):
        if implementation:
            model.set_experts_implementation(implementation)
        forward = wrap(model)

        def step() -> float:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
                loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return loss.item()

        return step

    return fastest_experts(make) if config.get("experts") else make(None)


def generate(wrap, config, batch, prompt, new_tokens, greedy, bf16):
    model = build(config).eval()
    if bf16:
        model = model.to(torch.bfloat16)
    model.forward = wrap(model.forward)
    ids = (torch.arange(batch)[:, None] + torch.arange(prompt) * 7) % 251
    mask = torch.ones_like(ids)
    choice = dict(do_sample=False) if greedy else dict(do_sample=True, temperature=1.0, top_k=0)

    def work():
        with torch.no_grad():
            out = model.generate(
                ids,
                attention_mask=mask,
                **choice,
                max_new_tokens=new_tokens,
                min_new_tokens=new_tokens,
                use_cache=True,
            )
        if out.shape[1] != prompt + new_tokens:
            raise RuntimeError(f"generated {out.shape[1] - prompt} tokens instead of {new_tokens}")

    return work
