"""Ways to come by a rollout, against in-memory roles."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from rlhf.batch import Prompt, PromptBatch, joined
from rlhf.errors import DataError
from rlhf.interfaces import Kept, ScoredRollout
from rlhf.ppo.collect import SampleAndScore, UntilInformative, WithGreedyBaseline, once_per_group
from rlhf.ppo.prompts import PromptStream
from tests.ppo import fakes


def stream(responses: int = 2) -> PromptStream:
    return PromptStream([Prompt(str(k), (k,)) for k in range(10)], per_step=2, seed=1, responses=responses)


def sampler(log: list[str]) -> fakes.FakeSampler:
    return fakes.FakeSampler(log, holds=3)


@dataclass
class FakeFilter:
    """Says how many groups each rollout brings."""

    brings: list[int]
    kept: list[int] = field(default_factory=list)

    def keep(self, step: int, kept: Kept | None, sampled: ScoredRollout, limit: int) -> Kept:
        groups = min(limit, (kept.groups if kept else 0) + self.brings[len(self.kept)])
        self.kept.append(groups)
        return Kept(sampled.rollout, sampled.scores, groups)


def test_each_prompt_is_asked_once_per_response_of_its_group() -> None:
    log: list[str] = []
    collected = SampleAndScore(sampler(log), fakes.FakeScorer(log), stream()).collect(3, 3, 6)
    first, second = (prompt.id for prompt in stream(1).batch(3).prompts)
    assert f"generate 3 {first}+{first}+{second}+{second}" in log and log[-1] == "score"
    assert collected.prompts_used == 8 and collected.greedy is None


def test_the_greedy_baseline_asks_each_prompt_once() -> None:
    log: list[str] = []
    plain = SampleAndScore(sampler(log), fakes.FakeScorer(log), stream())
    collected = WithGreedyBaseline(plain, sampler(log)).collect(3, 3, 6)
    asked = "+".join(prompt.id for prompt in stream(1).batch(3).prompts)
    assert [entry for entry in log if entry.startswith("generate")][1] == f"generate 3 {asked}"
    assert collected.greedy is not None and collected.prompts_used == 8


def test_sampling_goes_on_with_further_prompts_until_there_are_enough() -> None:
    log: list[str] = []
    few = FakeFilter([1, 0, 1])
    collected = UntilInformative(sampler(log), fakes.FakeScorer(log), stream(), few, 5).collect(3, 3, 6)
    asked = [entry.split()[2] for entry in log if entry.startswith("generate")]
    assert len(asked) == 3 and len(set(asked)) == 3
    assert few.kept == [1, 1, 2] and collected.prompts_used == 12
    assert collected.metrics["group/rollouts"].value == 3


def test_prompts_that_never_tell_responses_apart_end_the_run_with_a_sentence() -> None:
    collector = UntilInformative(sampler([]), fakes.FakeScorer([]), stream(), FakeFilter([1, 0, 0]), 3)
    with pytest.raises(DataError, match="step 4: 3 rollouts brought 1 of 2 prompts whose responses differ in score; "):
        collector.collect(3, 3, 6)


def test_further_rollouts_of_a_step_have_seeds_of_their_own() -> None:
    first, second = stream().batch(3, 6), stream().batch(3, 6, drawn=1)
    assert first.prompts == second.prompts and not set(first.seeds) & set(second.seeds)


def test_groups_stay_apart_when_batches_are_joined_and_are_numbered_anew_when_rows_are_chosen() -> None:
    one = stream().batch(0)
    both = joined([one, stream().batch(1)])
    assert list(both.groups) == [0, 0, 1, 1, 2, 2, 3, 3]
    chosen = both.rows([2, 3, 6, 7])
    assert list(chosen.groups) == [0, 0, 1, 1]
    assert [p.id for p in chosen.prompts] == [both.prompts[k].id for k in (2, 3, 6, 7)]
    first = [both.prompts[2], both.prompts[6]], [both.seeds[2], both.seeds[6]], [0, 1]
    assert once_per_group(chosen) == PromptBatch(*first)
