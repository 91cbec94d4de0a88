"""An image tokenizer and a masked generator as one writes them in eager PyTorch: layers, losses and sizes are those of our side."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class Residual(nn.Module):
    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(groups, inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(groups, outputs), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        y = self.conv1(F.silu(self.norm1(x)))
        return self.shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class Down(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x):
        return self.conv(F.pad(x, (0, 1, 0, 1)))


def autoencoder(channels, groups, code_width):
    first, last = channels[0], channels[-1]
    encoder = [nn.Conv2d(3, first, 3, padding=1), Residual(first, first, groups)]
    for inputs, outputs in zip(channels, channels[1:]):
        encoder += [Down(inputs), Residual(inputs, outputs, groups)]
    encoder += [Residual(last, last, groups), nn.GroupNorm(groups, last), nn.SiLU(), nn.Conv2d(last, code_width, 1)]
    decoder = [nn.Conv2d(code_width, last, 3, padding=1), Residual(last, last, groups), Residual(last, last, groups)]
    for outputs, inputs in reversed(list(zip(channels, channels[1:]))):
        decoder += [nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), Residual(outputs, outputs, groups)]
    decoder += [nn.GroupNorm(groups, first), nn.SiLU(), nn.Conv2d(first, 3, 3, padding=1)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


def tokenizer_step(wrap, image_size, channels, groups, codes, code_width, batch):
    encoder, decoder = (part.to(memory_format=torch.channels_last) for part in autoencoder(channels, groups, code_width))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0, fused=True)
    table, counts, sums = torch.zeros(codes, code_width), torch.zeros(codes), torch.zeros(codes, code_width)
    images = torch.rand(batch, 3, image_size, image_size).mul(2).sub(1).to(memory_format=torch.channels_last)

    def forward():
        latents = encoder(images)
        rows = latents.permute(0, 2, 3, 1).reshape(-1, code_width)
        with torch.no_grad():
            index = torch.cdist(rows, table).argmin(dim=1)
            chosen = table[index]
        through = rows + (chosen - rows).detach()
        grid = latents.shape[-1]
        made = decoder(through.reshape(batch, grid, grid, code_width).permute(0, 3, 1, 2))
        return F.mse_loss(made, images) + 0.25 * F.mse_loss(rows, chosen), rows.detach(), index

    run = wrap(forward)

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss, rows, index = run()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            counts.mul_(0.98).add_(torch.bincount(index, minlength=codes), alpha=0.02)
            sums.mul_(0.98).add_(torch.zeros_like(sums).index_add_(0, index, rows), alpha=0.02)
            total = counts.sum()
            table.copy_(sums / ((counts + 1e-5) / (total + codes * 1e-5) * total)[:, None])
            dead = counts < 0.1
            drawn = rows[torch.randint(len(rows), (codes,))]
            table[dead], sums[dead], counts[dead] = drawn[dead], drawn[dead], 1.0
        return {"score": loss.item()}

    return step


class Attention(nn.Module):
    def __init__(self, width, source, heads):
        super().__init__()
        self.heads = heads
        self.queries, self.output = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.keys, self.values = nn.Linear(source, width, bias=False), nn.Linear(source, width, bias=False)

    def split(self, x):
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def memory(self, source):
        return self.split(self.keys(source)), self.split(self.values(source))

    def forward(self, x, memory, mask=None):
        keys, values = memory
        mixed = F.scaled_dot_product_attention(self.split(self.queries(x)), keys, values, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    def __init__(self, width, heads, hidden, source=None):
        super().__init__()
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(3 if source else 2))
        self.self = Attention(width, width, heads)
        self.cross = Attention(width, source, heads) if source else None
        self.overview = nn.Sequential(nn.RMSNorm(width), nn.Linear(width, width), nn.ReLU()) if source else None
        self.tell = nn.Linear(width, width, bias=False) if source else None
        self.gate_up, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x, mask=None, memory=None, memory_mask=None):
        inner = self.norms[0](x)
        x = x + self.self(inner, self.self.memory(inner), mask)
        if self.cross:
            x = x + self.cross(self.norms[1](x), memory, memory_mask)
            x = x + self.tell(self.overview(x).sum(1, keepdim=True) / math.sqrt(x.shape[1]))
        gate, up = self.gate_up(self.norms[-1](x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class Generator(nn.Module):
    def __init__(self, width, layers, heads, feed_forward, text_width, text_layers, text_window, text_length, grid, codes, vocabulary):
        super().__init__()
        self.words, self.window_norm = nn.Embedding(vocabulary, text_width), nn.RMSNorm(text_width)
        self.window = nn.Conv1d(text_width, text_width, 2 * text_window + 1, padding=text_window, bias=False)
        text_heads = max(1, round(text_width / (width / heads)))
        self.text = nn.ModuleList(Block(text_width, text_heads, 2 * text_width) for _ in range(text_layers))
        self.text_norm, self.absent = nn.RMSNorm(text_width), nn.Parameter(torch.randn(text_width))
        self.embed = nn.Embedding(codes + 1, width)
        self.rows, self.columns = nn.Parameter(torch.randn(grid, 1, width)), nn.Parameter(torch.randn(1, grid, width))
        self.blocks = nn.ModuleList(Block(width, heads, feed_forward, text_width) for _ in range(layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, codes)

    def condition(self, words, lengths, kept):
        real = torch.arange(words.shape[1]) < lengths[:, None]
        mask, x = real[:, None, None, :], self.words(words)
        x = x + self.window((self.window_norm(x) * real[:, :, None]).transpose(1, 2)).transpose(1, 2)
        for block in self.text:
            x = block(x, mask)
        states = torch.where(kept[:, None, None], self.text_norm(x), self.absent)
        return [block.cross.memory(states) for block in self.blocks], mask

    def forward(self, tokens, memories, mask):
        x = self.embed(tokens) + (self.rows + self.columns).flatten(0, 1)
        for block, memory in zip(self.blocks, memories):
            x = block(x, None, memory, mask)
        return self.head(self.norm(x))


def captions(batch, text_length, caption_length, vocabulary):
    words = torch.zeros(batch, text_length, dtype=torch.long)
    words[:, :caption_length] = torch.randint(vocabulary, (batch, caption_length))
    return words, torch.full((batch,), caption_length)


def generator_step(wrap, batch, caption_length, **sizes):
    model, codes, positions = Generator(**sizes), sizes["codes"], sizes["grid"] ** 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.96), weight_decay=0, fused=True)
    data = torch.randint(codes, (4 * batch, positions))
    words, lengths = captions(4 * batch, sizes["text_length"], caption_length, sizes["vocabulary"])

    def forward(words, lengths, kept, tokens, targets):
        logits = model(tokens, *model.condition(words, lengths, kept))
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)

    run = wrap(forward)

    def step():
        rows = torch.randperm(len(data))[:batch]
        hidden = (torch.cos(torch.rand(batch) * math.pi / 2) * positions).round().clamp(min=1)
        order = torch.rand(batch, positions).argsort(dim=1).argsort(dim=1)
        masked = order < hidden[:, None]
        chosen = data[rows]
        tokens, targets = torch.where(masked, codes, chosen), torch.where(masked, chosen, -1)
        optimizer.zero_grad(set_to_none=True)
        loss = run(words[rows], lengths[rows], torch.rand(batch) >= 0.1, tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return {"score": loss.item()}

    return step


def generate_codes(wrap, batch, caption_length, steps, guidance, **sizes):
    model, codes, positions = Generator(**sizes), sizes["codes"], sizes["grid"] ** 2
    words, lengths = captions(batch, sizes["text_length"], caption_length, sizes["vocabulary"])
    kept = torch.arange(2 * batch) < batch
    run = wrap(model)

    @torch.no_grad()
    def generate():
        memories, mask = model.condition(torch.cat([words, words]), torch.cat([lengths, torch.ones_like(lengths)]), kept)
        tokens = torch.full((batch, positions), codes)
        for step in range(steps):
            elapsed, w = (step + 1) / steps, guidance * step / (steps - 1)
            conditional, unconditional = run(torch.cat([tokens, tokens]), memories, mask).chunk(2)
            probabilities = ((1 + w) * conditional - w * unconditional).softmax(dim=-1)
            drawn = torch.multinomial(probabilities.flatten(0, 1), 1).view(batch, positions)
            known = tokens != codes
            sampled = torch.where(known, tokens, drawn)
            if step == steps - 1:
                return sampled
            noise = -torch.empty(batch, positions).exponential_().log()
            confidence = probabilities.gather(2, sampled[..., None]).squeeze(-1).log() + 2 * (1 - elapsed) * noise
            confidence = confidence.masked_fill(known, math.inf)
            remaining = max(1, int(positions * math.cos(elapsed * math.pi / 2)))
            cut = confidence.sort(dim=1).values[:, remaining, None]
            tokens = torch.where(confidence < cut, codes, sampled)

    def work():
        generate()

    return work
