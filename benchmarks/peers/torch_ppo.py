"""Proximal policy optimisation as a user of transformers writes it: `generate`, scores, epochs of clipped updates in eager PyTorch.

Hyper-parameters, sizes and starting weights are those of our side: every number comes with the task. A separate critic starts
from the policy's trunk and a head of zeros, as ours does.
"""

import copy

import torch
import torch.nn.functional as F
from transformers import LlamaForCausalLM


class Critic(torch.nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.trunk = copy.deepcopy(policy.model)
        self.score = torch.nn.Linear(policy.config.hidden_size, 1, bias=False)
        torch.nn.init.zeros_(self.score.weight)

    def forward(self, ids, mask):
        hidden = self.trunk(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return self.score(hidden).squeeze(-1)


def quality(prompt, response, letters, end):
    """The built-in task's true quality, over token ids."""
    wanted = set(token for token in prompt if token < letters)
    ended = len(response) > 0 and response[-1] == end
    body = response[:-1] if ended else response
    named, total = set(), 0.0 if ended else -0.5
    for token in body:
        if token in named:
            total -= 0.25
        elif token not in wanted:
            total -= 0.35
        named.add(token)
    total += 2 * len(wanted & named) / len(wanted)
    return total + (0.5 if body and body[0] == max(wanted) else 0)


def ppo(wrap, folder, prompts, letters, end, padding, settings):
    policy = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    policy.generation_config.eos_token_id = end
    policy.generation_config.pad_token_id = padding
    reference = copy.deepcopy(policy).requires_grad_(False)
    critic = Critic(policy)
    updates = settings["iterations"] * settings["epochs"] * settings["rollouts"] // settings["minibatch"]

    def optimizer(module, rate):
        adam = torch.optim.AdamW(module.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-5, weight_decay=0, fused=True)
        return adam, torch.optim.lr_scheduler.LambdaLR(adam, lambda step: max(0.0, 1 - step / (updates + 1)))

    policy_optimizer, policy_schedule = optimizer(policy, settings["policy_rate"])
    value_optimizer, value_schedule = optimizer(critic, settings["value_rate"])
    everything = torch.tensor(prompts)
    width, new = everything.shape[1], settings["new_tokens"]
    order = torch.randperm(len(prompts))
    place = 0
    scores = []
    forward = wrap(policy)
    values_of = wrap(critic)

    def log_probs(model, ids, mask, response):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, width - 1 : -1]
        return logits.log_softmax(dim=-1).gather(2, response[..., None]).squeeze(-1)

    def mean_of(x, mask):
        return (x * mask).sum() / mask.sum()

    def iteration():
        nonlocal order, place
        if place + settings["rollouts"] > len(order):
            order, place = torch.randperm(len(prompts)), 0
        chosen = everything[order[place : place + settings["rollouts"]]]
        place += settings["rollouts"]
        with torch.no_grad():
            sampled = policy.generate(
                chosen, attention_mask=torch.ones_like(chosen), do_sample=True, temperature=1.0, top_k=0, max_new_tokens=new
            )
            ids = F.pad(sampled, (0, width + new - sampled.shape[1]), value=padding)
            response = ids[:, width:]
            # Up to and with the end token.
            live = (torch.cumsum(response == end, dim=1) - (response == end).long() == 0).float()
            if sampled.shape[1] < width + new:
                live[:, sampled.shape[1] - width :] = 0
            mask = torch.cat([torch.ones_like(chosen), live.long()], dim=1)
            lengths = live.sum(dim=1).long()
            rewards = [
                quality(prompt, answer[:length], letters, end)
                for prompt, answer, length in zip(chosen.tolist(), response.tolist(), lengths.tolist())
            ]
            old = log_probs(forward, ids, mask, response)
            kept = log_probs(reference, ids, mask, response)
            values = values_of(ids, mask)[:, width - 1 : -1] * live
            shaped = -settings["kl"] * (old - kept) * live
            shaped[torch.arange(len(chosen)), lengths - 1] += torch.tensor(rewards)
            advantages = torch.zeros_like(shaped)
            last = torch.zeros(len(chosen))
            for t in reversed(range(new)):
                following = values[:, t + 1] if t + 1 < new else torch.zeros(len(chosen))
                last = (shaped[:, t] + settings["gamma"] * following - values[:, t]) + settings["gamma"] * settings["lambda"] * last
                last = last * live[:, t]
                advantages[:, t] = last
            returns = advantages + values
            centred = advantages - mean_of(advantages, live)
            advantages = centred / (mean_of(centred.square(), live) + 1e-8).sqrt()
        for _ in range(settings["epochs"]):
            for rows in torch.randperm(len(chosen)).split(settings["minibatch"]):
                m = live[rows]
                ratio = (log_probs(forward, ids[rows], mask[rows], response[rows]) - old[rows]).exp()
                clipped = ratio.clamp(1 - settings["clip"], 1 + settings["clip"])
                policy_loss = mean_of(torch.maximum(-ratio * advantages[rows], -clipped * advantages[rows]), m)
                predicted = values_of(ids[rows], mask[rows])[:, width - 1 : -1]
                value_loss = 0.5 * mean_of((predicted - returns[rows]).square(), m)
                for optimizer, schedule, model, loss in (
                    (policy_optimizer, policy_schedule, policy, policy_loss),
                    (value_optimizer, value_schedule, critic, value_loss),
                ):
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
                    optimizer.step()
                    schedule.step()
        scores.append(sum(rewards) / len(rewards))
        return {"scores": scores}

    return iteration
