"""How a step comes by its rollout: ways to sample and score, one object each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.batch import PromptBatch
from rlhf.errors import DataError
from rlhf.interfaces import Collected, GroupFilter, Nothing, RewardScorer, Sampler, ScoredRollout
from rlhf.metrics import Max, merge
from rlhf.ppo.prompts import PromptStream


class NothingAhead:
    """What collectors have in common that sample for the step at hand: nothing of theirs outlives it."""

    def save(self, directory: Path) -> Nothing:
        return Nothing()

    def load(self, directory: Path) -> None: ...


@dataclass(frozen=True)
class SampleAndScore(NothingAhead):
    """The next prompts, each asked once per response of its group."""

    sampler: Sampler
    reward: RewardScorer
    prompts: PromptStream

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        batch = self.prompts.batch(step, prompts_used)
        with self.sampler.resident():
            rollout = self.sampler.generate(batch, version)
            metrics = rollout.get()
        return Collected(rollout, self.reward.score(rollout), prompts_used + self.prompts.per_step, metrics)


@dataclass(frozen=True)
class WithGreedyBaseline(NothingAhead):
    """Beside the samples, the most likely response to each prompt, and its score (ReMax, arXiv:2310.10505)."""

    sampled: SampleAndScore
    greedy: Sampler

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        collected = self.sampled.collect(step, version, prompts_used)
        batch = once_per_group(self.sampled.prompts.batch(step, prompts_used))
        with self.greedy.resident():
            rollout = self.greedy.generate(batch, version)
            rollout.get()
        scores = self.sampled.reward.score(rollout)
        scores.get()
        return replace(collected, greedy=ScoredRollout(rollout, scores))


@dataclass(frozen=True)
class UntilInformative(NothingAhead):
    """Samples until there are enough prompts whose responses differ in score (DAPO, arXiv:2503.14476, section 3.2).

    Raises DataError when `max_rollouts` did not bring them.
    """

    sampler: Sampler
    reward: RewardScorer
    prompts: PromptStream
    groups: GroupFilter
    max_rollouts: int

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        wanted, kept, said = self.prompts.per_step, None, []
        for drawn in range(self.max_rollouts):
            batch = self.prompts.batch(step, prompts_used + drawn * wanted, drawn)
            with self.sampler.resident():
                rollout = self.sampler.generate(batch, version)
                said.append(rollout.get())
            kept = self.groups.keep(step, kept, ScoredRollout(rollout, self.reward.score(rollout)), wanted)
            if kept.groups == wanted:
                metrics = merge([*said, {"group/rollouts": Max(drawn + 1.0)}])
                return Collected(kept.rollout, kept.scores, prompts_used + (drawn + 1) * wanted, metrics)
        raise DataError(
            f"step {step + 1}: {self.max_rollouts} rollouts brought {kept.groups if kept else 0} of {wanted} prompts "
            f"whose responses differ in score; use prompts that the policy answers sometimes, or raise "
            f"rollout.responses_per_prompt or ppo.groups.max_rollouts"
        )


def once_per_group(batch: PromptBatch) -> PromptBatch:
    """The first row of each group."""
    first = {group: row for row, group in reversed(list(enumerate(batch.groups)))}
    rows = [first[group] for group in sorted(first)]
    return PromptBatch(*([column[row] for row in rows] for column in (batch.prompts, batch.seeds, batch.groups)))
