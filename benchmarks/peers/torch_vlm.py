"""A vision-language model as one writes it in eager PyTorch around transformers' Llama: a Perceiver resampler and gated cross-attention.

It starts from the weights and the batch that our side wrote, so that the losses of both can be compared.
"""

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn
from torch_synth2 import Attention
from transformers import DynamicCache, LlamaForCausalLM


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        return self.down(F.gelu(self.up(self.norm(x))))


class PictureLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(width), Attention(width, width, heads), FeedForward(width)

    def forward(self, x):
        inner = self.norm(x)
        x = x + self.attention(inner, self.attention.memory(inner))
        return x + self.mlp(x)


class Encoder(nn.Module):
    def __init__(self, grid, code_width, width, heads, layers):
        super().__init__()
        self.embed = nn.Linear(code_width, width, bias=False)
        self.rows, self.columns = nn.Parameter(torch.zeros(grid, width)), nn.Parameter(torch.zeros(grid, width))
        self.layers = nn.ModuleList(PictureLayer(width, heads) for _ in range(layers))

    def forward(self, pictures):
        x = self.embed(pictures) + (self.rows[:, None] + self.columns[None]).flatten(0, 1)
        for layer in self.layers:
            x = layer(x)
        return x


class ResamplerLayer(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.picture_norm, self.latent_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = Attention(width, width, heads), FeedForward(width)

    def forward(self, latents, picture):
        queries = self.latent_norm(latents)
        memory = self.attention.memory(torch.cat([self.picture_norm(picture), queries], dim=1))
        latents = latents + self.attention(queries, memory)
        return latents + self.mlp(latents)


class Resampler(nn.Module):
    def __init__(self, latents, layers, picture_layers, grid, code_width, width, heads):
        super().__init__()
        self.encoder = Encoder(grid, code_width, width, heads, picture_layers)
        self.latents = nn.Parameter(torch.zeros(latents, width))
        self.layers, self.norm = nn.ModuleList(ResamplerLayer(width, heads) for _ in range(layers)), nn.LayerNorm(width)

    def forward(self, pictures):
        picture = self.encoder(pictures)
        x = self.latents.expand(len(pictures), -1, -1)
        for layer in self.layers:
            x = layer(x, picture)
        return self.norm(x)


class GatedBlock(nn.Module):
    def __init__(self, width, source, heads):
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(width), Attention(width, source, heads), FeedForward(width)
        self.attention_gate, self.mlp_gate = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x, memory):
        x = x + self.attention_gate.tanh() * self.attention(self.norm(x), memory)
        return x + self.mlp_gate.tanh() * self.mlp(x)


class VisionLanguageModel(nn.Module):
    def __init__(self, folder, grid, heads):
        super().__init__()
        self.language = LlamaForCausalLM.from_pretrained(f"{folder}/language", dtype=torch.float32).requires_grad_(False)
        weights = load_file(f"{folder}/vlm/model.safetensors")
        count = lambda prefix: len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})
        latents, width = weights["resampler.latents"].shape
        text_width = self.language.config.hidden_size
        code_width = weights["resampler.encoder.embed.weight"].shape[1]
        picture_layers, layers = count("resampler.encoder.layers."), count("resampler.layers.")
        self.resampler = Resampler(latents, layers, picture_layers, grid, code_width, width, heads)
        self.blocks = nn.ModuleList(GatedBlock(text_width, width, heads) for _ in range(count("blocks.")))
        missing, unexpected = self.load_state_dict(weights, strict=False)
        if unexpected or any(not name.startswith("language.") for name in missing):
            raise RuntimeError(f"weights do not fit: missing {missing}, unexpected {unexpected}")

    def memories(self, pictures):
        latents = self.resampler(pictures)
        return [block.attention.memory(latents) for block in self.blocks]

    def forward(self, tokens, memories, cache=None):
        model = self.language.model
        seen = cache.get_seq_length() if cache else 0
        positions = torch.arange(seen, seen + tokens.shape[1])[None]
        x = model.embed_tokens(tokens)
        rotations = model.rotary_emb(x, positions)
        for layer, block, memory in zip(model.layers, self.blocks, memories):
            x = layer(block(x, memory), attention_mask=None, position_embeddings=rotations, past_key_values=cache)
        return model.norm(x)

    def logits(self, hidden):
        return self.language.lm_head(hidden)


def vlm_step(wrap, folder, grid, heads):
    model, batch = VisionLanguageModel(folder, grid, heads), load_file(f"{folder}/batch.safetensors")
    parameters = [*model.resampler.parameters(), *model.blocks.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=0, fused=True)
    tokens, targets = batch["tokens"].long(), batch["targets"].long().flatten()
    losses = []

    def forward():
        hidden = model(tokens, model.memories(batch["pictures"]))
        return F.cross_entropy(model.logits(hidden).flatten(0, 1), targets, ignore_index=-1)

    run = wrap(forward)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = run()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        return {"scores": losses}

    return step


def caption_pictures(wrap, folder, grid, heads, new_tokens):
    model, batch = VisionLanguageModel(folder, grid, heads).eval(), load_file(f"{folder}/batch.safetensors")
    start = batch["tokens"][:, :1].long()
    run = wrap(model)

    @torch.no_grad()
    def work():
        memories, cache, written = model.memories(batch["pictures"]), DynamicCache(), start
        for _ in range(new_tokens):
            hidden = run(written[:, -1:], memories, cache)
            written = torch.cat([written, model.logits(hidden[:, -1:]).argmax(dim=-1)], dim=1)

    return work
