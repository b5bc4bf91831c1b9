"""A policy gradient of a whole model, from scores to parameters: TRL's trainers and ours give the same one."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from rlhf.batch import from_completions
from rlhf.models.heads import PolicyModel, transformers_names
from rlhf.models.loading import load_causal_lm
from rlhf.objectives.group import group_relative, leave_one_out
from rlhf.objectives.policy import ppo_terms
from rlhf.objectives.reduction import row_weights, step_totals, weighted_sum
from rlhf.objectives.returns import spread
from tests.objectives import trl_trainers as trl

DRAW = random.Random(5)
COMPLETIONS = [[DRAW.randrange(10, 250) for _ in range(length)] for length in (6, 2, 9, 1, 4, 4, 7, 3)]
SCORES = [0.5, -1.25, 3.0, 0.75, 0.1, 0.2, 0.7, 0.3]
PROMPTS = torch.arange(8) // 4
LIMIT = 9


def trl_gradients(trainer, noise: Tensor | None) -> dict[str, Tensor]:
    """Of all parameters; `noise` [B, C] is how far the policy has moved from the old one, in nats."""
    batch = trl.experience(trainer, COMPLETIONS, SCORES)
    if noise is not None:
        logprobs, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1), LIMIT,
        )
        batch["old_per_token_logps"] = logprobs.detach() - noise
    trainer.compute_loss(trainer.model, batch).backward()
    return {name: parameter.grad for name, parameter in trainer.model.named_parameters()}


def our_gradients(path, prompt, advantages: Tensor, reduction: str, temperature: float, noise: Tensor | None):
    model = load_causal_lm(path, torch.float32)
    policy = PolicyModel(model, temperature)
    rollout = from_completions(
        [prompt] * 8, COMPLETIONS, [[0.0] * len(ids) for ids in COMPLETIONS], [True] * 8, pad_token=0, policy_version=0
    )
    mask = rollout.response_mask
    logprobs, _ = policy(rollout.tokens, mask)
    old = logprobs.detach().clone()
    if noise is not None:
        old[mask] -= noise[torch.arange(LIMIT)[None, :] < mask.sum(dim=1, keepdim=True)]
    terms = ppo_terms(logprobs, old, spread(advantages, mask), mask, 0.2, 0.2).terms
    lengths = mask.sum(dim=1)
    weighted_sum(terms, row_weights(lengths, reduction, step_totals(lengths, LIMIT))).backward()
    names = transformers_names(policy, model)
    return {names[name]: parameter.grad for name, parameter in policy.named_parameters()}


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    compared = 0
    for name, expected in wanted.items():
        if name in found:
            torch.testing.assert_close(found[name], expected, atol=1e-5, rtol=1e-5, msg=lambda text, n=name: n + text)
            compared += 1
    assert compared >= len(wanted) - 1  # tied embeddings have one name of two
    assert max(float(gradient.abs().max()) for gradient in wanted.values()) > 0.01


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize(
    ("loss_type", "reduction"), [("dapo", "token_mean"), ("dr_grpo", "sequence_mean_token_sum_norm")]
)
def test_grpo(
    tiny_models, tmp_path, loss_type: str, reduction: str, moved: bool, temperature: float, tied: bool
) -> None:
    path = tiny_models.tied if tied else tiny_models.untied
    trainer = trl.grpo(
        path, tmp_path, 8, 4, loss_type=loss_type, temperature=temperature, max_completion_length=LIMIT
    )
    noise = torch.randn(8, LIMIT, generator=torch.Generator().manual_seed(1)) / 3 if moved else None
    wanted = trl_gradients(trainer, noise)
    prompt = trainer.processing_class("1 2")["input_ids"]
    advantages = group_relative(torch.tensor(SCORES), PROMPTS, scale=True)
    assert_same(our_gradients(path, prompt, advantages, reduction, temperature, noise), wanted)


def test_rloo_on_the_policy_that_sampled(tiny_models, tmp_path) -> None:
    """TRL's ratio of whole responses has the gradient of our ratios per token, where both are 1."""
    trainer = trl.rloo(tiny_models.tied, tmp_path, 8, 4, beta=0.0, max_completion_length=LIMIT)
    wanted = trl_gradients(trainer, None)
    prompt = trainer.processing_class("1 2")["input_ids"]
    advantages = leave_one_out(torch.tensor(SCORES), PROMPTS)
    assert_same(our_gradients(tiny_models.tied, prompt, advantages, "sequence_mean_token_sum", 1.0, None), wanted)
