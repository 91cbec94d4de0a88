"""Writes codebook.safetensors beside this file: the straight-through gradient and two updates of an EMA codebook, by PyTorch.

Needs torch and safetensors: python codebook_fixture.py
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CODES, WIDTH, ROWS, DECAY, EPSILON, BETA = 7, 3, 40, 0.95, 1e-5, 0.25

torch.manual_seed(0)
table = torch.randn(CODES, WIDTH)
latents = torch.randn(ROWS, WIDTH, requires_grad=True)
mixing = torch.randn(WIDTH, 5)
out = {"table": table.clone(), "latents": latents.detach().clone(), "mixing": mixing.clone()}

# Straight through: the gradient of a loss on the codes reaches the latents unchanged; both vector-quantisation terms beside it.
codebook = table.clone().requires_grad_(True)
index = torch.cdist(latents, codebook).argmin(dim=1)
codes = F.embedding(index, codebook)
through = latents + (codes - latents).detach()
loss = torch.tanh(through @ mixing).square().mean()
loss = loss + F.mse_loss(codes, latents.detach()) + BETA * F.mse_loss(latents, codes.detach())
loss.backward()
out |= {"index": index.int(), "loss": loss.detach(), "latents_gradient": latents.grad, "table_gradient": codebook.grad}

# Moving averages: counts and sums begin at what each code was, every step with latents of its own.
counts, sums, codes = torch.ones(CODES), table.clone(), table.clone()
for step in range(2):
    batch = torch.randn(ROWS, WIDTH) + step
    out[f"batch{step}"] = batch
    one_hot = F.one_hot(torch.cdist(batch, codes).argmin(dim=1), CODES).float()
    counts = DECAY * counts + (1 - DECAY) * one_hot.sum(dim=0)
    sums = DECAY * sums + (1 - DECAY) * one_hot.T @ batch
    total = counts.sum()
    codes = sums / ((counts + EPSILON) / (total + CODES * EPSILON) * total)[:, None]
    out |= {f"table{step}": codes.clone(), f"counts{step}": counts.clone()}

save_file({name: tensor.contiguous() for name, tensor in out.items()}, Path(__file__).parent / "codebook.safetensors")
