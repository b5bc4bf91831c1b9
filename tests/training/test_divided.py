"""A frozen model answers the same, over however many ranks its weights are divided. Real DeepSpeed over gloo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.models.heads import PolicyModel, SequenceScorer
from rlhf.models.loading import load_causal_lm, load_reward_model
from rlhf.ppo.scoring import Passes, reference_logprobs, reward_scores
from tests.limits import HANG_S
from tests.training.ranks import LARGE, SMALL, VOCABULARY, Case, batch_of


@pytest.mark.parametrize("role", ["reference", "tied reference", "reward"])
@pytest.mark.parametrize(
    ("ranks", "batch", "budget"), [(1, "mixed", LARGE), (2, "mixed", LARGE), (2, "lopsided", SMALL)]
)
def test_divided_weights_answer_as_whole_ones(
    rank_groups, tiny_models, tmp_path: Path, role: str, ranks: int, batch: str, budget: int
) -> None:
    """Also where one rank has fewer passes than the other; two ranks hold half of the weights each."""
    import ray

    case = Case(ranks=ranks, batch=batch, budget=budget, tied=role == "tied reference")
    kind = role.split()[-1]
    calls = [actor.frozen.remote(case, tiny_models, tmp_path, kind) for actor in rank_groups[ranks]]
    rollout, _ = batch_of(replace(case, ranks=1), VOCABULARY)
    passes = Passes.alone(rollout, LARGE)
    if kind == "reference":
        source = tiny_models.tied if case.tied else tiny_models.untied
        module = PolicyModel(load_causal_lm(source, torch.float32), 1.0).eval()
        wanted = reference_logprobs(module, rollout, passes)
    else:
        module = SequenceScorer(load_reward_model(tiny_models.reward, torch.float32)).eval()
        wanted = reward_scores(module, rollout, passes, end_token=2)
    assert list(passes.rows) == list(range(len(rollout)))
    weights = sum(parameter.numel() for parameter in module.parameters())
    seen: list[int] = []
    for rows, numbers, held in ray.get(calls, timeout=HANG_S):
        torch.testing.assert_close(numbers, wanted[rows], atol=1e-5, rtol=0)
        assert weights / ranks <= held <= 1.02 * weights / ranks
        seen += rows
    assert sorted(seen) == list(range(len(rollout)))
