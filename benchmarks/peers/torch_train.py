"""PyTorch peer for training steps: reads one JSON request a line, answers with the seconds of each step.

Request: {"config": {...}, "batch": B, "sequence": S, "threads": n, "compile": bool} builds the model;
{"steps": n} runs n steps and prints {"seconds": [...], "loss": last}.
"""

import json
import sys
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM


def build(request: dict):
    torch.manual_seed(0)
    torch.set_num_threads(request["threads"])
    c = request["config"]
    common = dict(
        vocab_size=c["vocabSize"],
        hidden_size=c["hiddenSize"],
        intermediate_size=c["intermediateSize"],
        num_hidden_layers=c["layers"],
        num_attention_heads=c["heads"],
        num_key_value_heads=c["keyValueHeads"],
        max_position_embeddings=c["maxPositions"],
        rms_norm_eps=c["rmsNormEps"],
        tie_word_embeddings=c["tieWordEmbeddings"],
    )
    if c.get("experts"):
        config = MixtralConfig(**common, num_local_experts=c["experts"], num_experts_per_tok=c["expertsPerToken"])
        model = MixtralForCausalLM(config)
    else:
        model = LlamaForCausalLM(LlamaConfig(**common))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1)
    ids = (torch.arange(request["batch"] * request["sequence"]) * 7 % 251).view(request["batch"], request["sequence"])
    forward = torch.compile(model) if request["compile"] else model

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step, sum(p.numel() for p in model.parameters())


def main() -> None:
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        if "config" in request:
            step, parameters = build(request)
            answer = {"parameters": parameters, "version": torch.__version__}
        else:
            seconds, loss = [], 0.0
            for _ in range(request["steps"]):
                begun = time.perf_counter()
                loss = step()
                seconds.append(time.perf_counter() - begun)
            answer = {"seconds": seconds, "loss": loss}
        print(json.dumps(answer), flush=True)


main()
