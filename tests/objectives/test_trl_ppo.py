"""TRL 1.10's PPO, before TRL gave it up: its helpers, and whole training steps from the same weights and samples.

What it answered lies in `trl_ppo`, with the program that asked it.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rlhf.batch import Experience, Rollout, from_completions
from rlhf.config import validate
from rlhf.metrics import merge, values
from rlhf.objectives.advantages import gae, whiten
from rlhf.objectives.masks import masked_sum
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.experience import Passes, make_experience

GOLDEN = Path(__file__).parent / "trl_ppo"
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
PAD, EOS, LENGTH = 0, 1, 8
KL_COEF, GAMMA, LAMBDA, TEMPERATURE = 0.05, 0.98, 0.9, 0.7


def config_of(output: Path, tokens: int = 0, ranks: int = 1, stage: int = 0) -> PPOConfig:
    """The settings of make.py. TRL whitens with the unbiased variance of `tokens` tokens: its gradients are smaller by
    a factor that Adam does not see but for its ε, so ours is larger by that factor."""
    optimizer = {
        "learning_rate": 0.01, "betas": [0.9, 0.95], "epsilon": 1e-3, "max_grad_norm": 1e9, "warmup_fraction": 0.0,
    }
    policy_epsilon = 1e-3 / unbiased(tokens) if tokens else 1e-3
    learner = {"zero": {"stage": stage}, "resources": {"ranks": ranks}}
    return validate(PPOConfig, {
        "output": str(output), "prompts": "prompts.jsonl", "steps": 10,
        "policy": {"model": str(GOLDEN / "policy"), "optimizer": optimizer | {"epsilon": policy_epsilon}, **learner},
        "critic": {"model": str(GOLDEN / "value"), "optimizer": optimizer, **learner},
        "reference": {"model": str(GOLDEN / "reference")},
        "reward": {"model": str(GOLDEN / "reward"), "missing_eos": {"kind": "none"}},
        "rollout": {"prompts_per_step": 8, "max_new_tokens": LENGTH, "temperature": TEMPERATURE},
        "ppo": {
            "advantage": {"kind": "gae", "gamma": GAMMA, "gae_lambda": LAMBDA}, "epochs": 2, "minibatches": 1,
            "loss": {"kind": "clip", "clip_range": 0.2}, "value_clip": 0.2,
        },
        "kl": {"control": {"kind": "fixed", "coef": KL_COEF}},
    })


def unbiased(tokens: int) -> float:
    """Biased over unbiased standard deviation."""
    return math.sqrt((tokens - 1) / tokens)


def rollout_of(golden: dict[str, Tensor]) -> Rollout:
    """TRL's left-padded rows as a rollout; its mask says where a response ends."""
    rows, width = golden["query_responses"], golden["query_responses"].shape[1] - LENGTH
    prompts = [[token for token in row[:width].tolist() if token != PAD] for row in rows]
    lengths = golden["mask"].sum(dim=1).tolist()
    responses = [row[width : width + length].tolist() for row, length in zip(rows, lengths, strict=True)]
    return from_completions(
        prompts, responses, [[0.0] * length for length in lengths], [True] * len(rows), PAD, 0
    )


def responses_only(values: Tensor, mask: Tensor) -> Tensor:
    """Each row's response slots, from [B, T] to TRL's [B, LENGTH]."""
    cut = torch.zeros(len(values), LENGTH)
    for row in range(len(values)):
        kept = values[row][mask[row]]
        cut[row, : len(kept)] = kept
    return cut


def frozen_passes(rollout: Rollout) -> dict[str, Tensor]:
    """Every role's pass with its starting weights, by our own heads."""
    from rlhf.models.heads import PolicyModel, SequenceScorer, ValueModel
    from rlhf.models.loading import load_causal_lm, load_reward_model

    tokens, mask = rollout.tokens, rollout.response_mask
    with torch.no_grad():
        found = {
            name: PolicyModel(load_causal_lm(GOLDEN / name, torch.float32), TEMPERATURE)(tokens, mask)[0]
            for name in ("policy", "reference")
        }
        found["value"] = ValueModel(load_reward_model(GOLDEN / "value", torch.float32))(tokens, mask)
        scorer = SequenceScorer(load_reward_model(GOLDEN / "reward", torch.float32))
        found["reward"] = scorer(tokens, rollout.attention_mask)
    return found


def experience_of(rollout: Rollout, config: PPOConfig) -> Experience:
    found = frozen_passes(rollout)
    rows = len(rollout)
    passes = Passes(
        found["reward"], torch.zeros(rows, dtype=torch.bool), found["policy"], found["reference"], found["value"],
        torch.arange(rows), torch.zeros(rows),
    )
    return make_experience(rollout, passes, KL_COEF, config)


@pytest.fixture(scope="module")
def full() -> dict[str, Tensor]:
    """Responses of eight tokens each, no end of sequence among them."""
    return load_file(GOLDEN / "full.safetensors")


@pytest.fixture(scope="module")
def ended() -> dict[str, Tensor]:
    """Responses of which some end early."""
    return load_file(GOLDEN / "ended.safetensors")


def test_means_and_variances() -> None:
    golden = load_file(GOLDEN / "helpers.safetensors")
    found, mask = golden["values"], golden["mask"]
    count = int(mask.sum())
    torch.testing.assert_close(masked_sum(found, mask) / count, golden["mean"], **TOLERANCE)
    ours = whiten(found, mask)
    theirs = torch.where(mask, golden["whitened"], 0.0)
    torch.testing.assert_close(ours * unbiased(count), theirs, **TOLERANCE)
    by_biased = (found - golden["mean"]) / golden["variance_biased"].sqrt()
    torch.testing.assert_close(ours, torch.where(mask, by_biased, 0.0), **TOLERANCE)
    assert float((ours - theirs).abs().max()) > 0.01  # the factor is there to be seen


def test_scores_values_and_kl(full) -> None:
    rollout = rollout_of(full)
    found = frozen_passes(rollout)
    torch.testing.assert_close(found["reward"], full["scores"], **TOLERANCE)
    torch.testing.assert_close(responses_only(found["value"], rollout.response_mask), full["values"], **TOLERANCE)
    kl = masked_sum(found["policy"] - found["reference"], rollout.response_mask) / len(rollout)
    torch.testing.assert_close(kl, full["objective/kl"], **TOLERANCE)


def test_advantages_of_whole_responses(full, tmp_path: Path) -> None:
    rollout = rollout_of(full)
    experience = experience_of(rollout, config_of(tmp_path))
    mask, count = rollout.response_mask, int(rollout.response_mask.sum())
    raw, _ = gae(experience.rewards, experience.values, mask, GAMMA, LAMBDA)
    torch.testing.assert_close(responses_only(raw, mask), full["advantages"], **TOLERANCE)
    whitened = responses_only(experience.advantages, mask) * unbiased(count)
    torch.testing.assert_close(whitened, full["whitened"], **TOLERANCE)


def test_the_score_stands_on_the_last_token_not_behind_it(ended, tmp_path: Path) -> None:
    """Where a response ends early TRL pays the score one slot later, on padding, and asks the critic there, too.
    At the end token that is γ(1 − λ) V' + (γλ − 1) s more, V' the value behind it; before it, (γλ)^k of that."""
    rollout = rollout_of(ended)
    mask = rollout.response_mask
    experience = experience_of(rollout, config_of(tmp_path))
    raw, _ = gae(experience.rewards, experience.values, mask, GAMMA, LAMBDA)
    lengths = mask.sum(dim=1)
    early = lengths < LENGTH
    assert 2 <= int(early.sum()) < len(early)
    behind = ended["values"].gather(1, lengths.clamp(max=LENGTH - 1)[:, None])[:, 0]
    more = GAMMA * (1 - LAMBDA) * behind + (GAMMA * LAMBDA - 1) * ended["scores"]
    away = (lengths[:, None] - 1 - torch.arange(LENGTH)).clamp(min=0)
    expected = torch.where(early, more, 0.0)[:, None] * (GAMMA * LAMBDA) ** away
    theirs = torch.where(ended["mask"], ended["advantages"], 0.0)
    difference = torch.where(ended["mask"], theirs - responses_only(raw, mask), 0.0)
    torch.testing.assert_close(difference, torch.where(ended["mask"], expected, 0.0), **TOLERANCE)
    assert float(difference.abs().max()) > 0.01


@pytest.mark.parametrize(("ranks", "stage"), [(1, 0), (2, 0), (1, 2), (2, 3)])
def test_a_whole_training_step(rank_groups, full, tmp_path: Path, ranks: int, stage: int) -> None:
    """Two epochs of policy and critic: TRL has one optimizer for both, we have two; Adam's step is per weight."""
    import ray

    rollout = rollout_of(full)
    config = config_of(tmp_path, int(rollout.response_mask.sum()), ranks, stage)
    experience = experience_of(rollout, config)
    moved = 0.0
    for role, name in (("policy", "policy"), ("critic", "value")):
        answers = ray.get([actor.step.remote(role, config, experience) for actor in rank_groups[ranks]])
        for key, weight in load_file(GOLDEN / name / "model.safetensors").items():
            wanted = full[f"{name}.{key}"]
            moved = max(moved, float((wanted - weight).abs().max()))
            for weights, _ in answers:
                torch.testing.assert_close(weights[key], wanted, **TOLERANCE, msg=lambda text, key=key: key + text)
        numbers = values(merge([metrics for _, metrics in answers]))
        if role == "policy":
            assert numbers["policy/clipfrac"] == pytest.approx(float(full["policy/clipfrac_avg"]), abs=1e-6)
            loss = numbers["policy/loss"] * unbiased(int(rollout.response_mask.sum()))
            assert loss == pytest.approx(float(full["loss/policy_avg"]), abs=1e-5)
        else:
            assert numbers["value/clipfrac"] == pytest.approx(float(full["val/clipfrac_avg"]), abs=1e-6)
            assert numbers["value/loss"] == pytest.approx(float(full["loss/value_avg"]), abs=1e-5)
    assert moved > 0.01
