"""Host of the experience maker: joins what the roles computed, away from the driver."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from actors.process import RoleProcess
from rlhf import partition
from rlhf.batch import Experience, PromptBatch, Rollout, concatenate, scatter_rows, select
from rlhf.errors import DataError, NumericError, RunError
from rlhf.metrics import Max, Mean, Metrics, Sum
from rlhf.not_finite import SkipBatch
from rlhf.ppo.algorithm import EveryGroup
from rlhf.ppo.config import PPOConfig, reward_role
from rlhf.ppo.finite_rows import FiniteRows
from rlhf.rewards.config import SkipFailures
from rlhf.rewards.total import Total
from rlhf.roles import Resources


@dataclass(frozen=True)
class Given:
    """What the roles answered for a step: a list per kind, with an entry per rank. Ray replaces references in the
    arguments of a call, not within them, so they travel one after the other, and `counts` says how many of each."""

    rollout: Sequence[Any] = ()
    scores: Sequence[Any] = ()
    logprobs: Sequence[Any] = ()
    ref_logprobs: Sequence[Any] = ()
    values: Sequence[Any] = ()
    greedy_rollout: Sequence[Any] = ()
    greedy_scores: Sequence[Any] = ()

    def counts(self) -> tuple[int, ...]:
        return tuple(len(kind) for kind in vars(self).values())

    def flat(self) -> list[Any]:
        return [part for kind in vars(self).values() for part in kind]

    @classmethod
    def of(cls, counts: Sequence[int], parts: Sequence[Any]) -> Given:
        remaining = iter(parts)
        return cls(*([next(remaining) for _ in range(count)] for count in counts))


class ExperienceProcess(RoleProcess):
    """Puts the parts of all ranks together and makes the experience; also writes transcripts of it."""

    role = "experience"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int, work: Path) -> None:
        super().__init__(rank, Resources(cpus=0))
        from rlhf.models.loading import load_tokenizer

        self.config, self.pad_token, self.work = config, pad_token, work
        self.finite = FiniteRows(config.not_finite, work / "failures")
        self.tokenizer = load_tokenizer(config.policy.model)

    def build(
        self, step: int, kl_coef: float, asked: PromptBatch, counts: Sequence[int], *parts: Rollout | Tensor
    ) -> tuple[Experience, Metrics]:
        """The experience of a whole step, and its metrics; `counts` and `parts` are those of a `Given`.

        Raises NumericError where a role computed what is not finite, or sampler and policy disagree; its message
        counts steps from 1, as metrics and transcripts do.
        """
        from rlhf.ppo.experience import Passes, describe, make_experience
        from rlhf.ppo.transcripts import Transcript, decode_responses

        given = Given.of(counts, parts)
        rollout = concatenate(given.rollout, self.pad_token)
        reward = self._reward(rollout, self._sheet(step, rollout, given.scores), asked.sources)
        if isinstance(self.config.ppo.groups, EveryGroup):  # where groups are chosen, every rollout was looked at then
            self._require_scored(step, reward)
        tokens, bad = self._tokens(step, rollout, given)
        rollout = replace(settled(rollout), sampler_logprobs=tokens["rollout"])
        groups, (greedy, failed) = torch.tensor(list(asked.groups)), self._greedy(step, asked, given)
        passes = Passes(
            reward.scores, reward.failed | bad | failed[groups], tokens["policy"], tokens["reference"],
            tokens["critic"], groups, greedy[groups],
        )
        experience = make_experience(rollout, passes, kl_coef, self.config)
        responses = decode_responses(rollout, self.tokenizer)
        self._last = Transcript(asked.prompts, responses, rollout, passes, reward, experience, bad)
        return experience, {
            **describe(rollout, passes, experience, self.config), **self._of_parts(reward),
            **self._gold(asked, responses), **self._of_agreement(step, rollout, passes.logprobs),
            **self._of_left_out(passes.failed),
        }

    def _tokens(self, step: int, rollout: Rollout, given: Given) -> tuple[dict[str, Tensor], Tensor]:
        """By role the numbers of every token, [B, T], joined over its ranks; and the rows that are left out, [B] bool:
        their numbers are 0.

        Raises NumericError where they are not finite and the config does not leave such rows out.
        """
        parts = {"policy": given.logprobs, "reference": given.ref_logprobs, "critic": given.values}
        tokens = {role: self._join(rollout, said) for role, said in parts.items()}
        tokens["rollout"] = rollout.sampler_logprobs
        bad = torch.zeros(len(rollout), dtype=torch.bool)
        for role, numbers in tokens.items():
            bad |= self.finite.bad(step, role, rollout, numbers)
        if bool(bad.any()):
            tokens = {role: numbers.masked_fill(bad[:, None], 0.0) for role, numbers in tokens.items()}
        return tokens, bad

    def _greedy(self, step: int, asked: PromptBatch, given: Given) -> tuple[Tensor, Tensor]:
        """Score and failure of the most likely response to each prompt, [G]; 0 and False where nobody asked."""
        from rlhf.ppo.experience import penalised_scores

        if not given.greedy_rollout:
            count = max(asked.groups) + 1
            return torch.zeros(count), torch.zeros(count, dtype=torch.bool)
        rollout = concatenate(given.greedy_rollout, self.pad_token)
        once = [source for _, source in sorted(dict(zip(asked.groups, asked.sources, strict=True)).items())]
        found = self._reward(rollout, self._sheet(step, rollout, given.greedy_scores), once)
        rollout = settled(rollout)
        return penalised_scores(rollout, found.scores, self.config) + rollout.turn_rewards.sum(dim=1), found.failed

    def keep_informative(
        self, step: int, asked: PromptBatch, limit: int, before: int, shards: int, *parts: Any
    ) -> tuple[Rollout, Tensor, list[int]]:
        """Rows of the first `limit` groups whose scores differ: their rollout, scores [b, K], and numbers in `asked`.

        `parts`: rollout and scores kept before (then `before` is 2), shards, scores of the reward's ranks.
        """
        from rlhf.objectives.group import informative_groups, without

        sampled = concatenate(parts[before : before + shards], self.pad_token)
        sheet = self._sheet(step, sampled, parts[before + shards :])
        self._require_scored(step, self._reward(sampled, sheet, asked.sources[len(asked) - len(sampled) :]))
        if before:
            sampled = concatenate([parts[0], sampled], self.pad_token)
            sheet = torch.cat([parts[1], sheet])
        groups = torch.tensor(list(asked.groups))
        reward = self._reward(sampled, sheet, asked.sources)
        whole = reward.scores + settled(sampled).turn_rewards.sum(dim=1)
        informative = informative_groups(whole, without(reward.failed, groups))
        chosen = groups[informative].unique()[:limit]
        rows = torch.isin(groups, chosen).nonzero().flatten().tolist()
        return select(sampled, rows), sheet[rows], rows

    def write_rollout(
        self, path: Path, step: int, asked: PromptBatch, prompts_used: int, metrics: Metrics, counts: Sequence[int],
        *parts: Any,
    ) -> Metrics:
        """Write the scored rollout of a step; `counts` and `parts` are those of a `Given`."""
        from rlhf.ppo.rollout_file import SavedRollout, ScoredRows, write_rollout
        from rlhf.ppo.transcripts import decode_responses

        def rows(shards: Sequence[Rollout], scores: Sequence[Tensor]) -> ScoredRows:
            rollout = concatenate(shards, self.pad_token)
            return ScoredRows(rollout, self._sheet(step, rollout, scores))

        given = Given.of(counts, parts)
        sampled = rows(given.rollout, given.scores)
        greedy = rows(given.greedy_rollout, given.greedy_scores) if given.greedy_rollout else None
        responses = decode_responses(sampled.rollout, self.tokenizer)
        write_rollout(path, SavedRollout(asked, sampled, self._parts(), prompts_used, metrics, greedy), responses)
        return {**self._of_rollout(step, asked, sampled.rollout, sampled.scores), **self._gold(asked, responses)}

    def read_rollout(self, path: Path) -> tuple[Any, Rollout, Tensor, Any, Any]:
        """What `write_rollout` wrote: (asked, prompts used, metrics, has greedy rows), and its tensors."""
        from rlhf.ppo.rollout_file import read_rollout

        saved = read_rollout(path, self.pad_token, self._parts())
        if self.config.ppo.advantage.greedy and saved.greedy is None:
            raise DataError(
                f"{path}: has no greedy responses, and ppo.advantage.kind {self.config.ppo.advantage.kind} compares "
                f"with them; use rollouts of a run of that kind"
            )
        sizes, wanted = Counter(saved.asked.groups), self.config.rollout.responses_per_prompt
        if set(sizes.values()) != {wanted}:
            raise DataError(
                f"{path}: has {min(sizes.values())} to {max(sizes.values())} responses per prompt; set "
                f"rollout.responses_per_prompt to what its run had (here: {wanted})"
            )
        said = (saved.asked, saved.prompts_used, saved.metrics, saved.greedy is not None)
        greedy = (saved.greedy.rollout, saved.greedy.scores) if saved.greedy is not None else (None, None)
        return (said, saved.sampled.rollout, saved.sampled.scores, *greedy)

    def _of_rollout(self, step: int, asked: PromptBatch, rollout: Rollout, sheet: Tensor) -> Metrics:
        """What is known of a rollout before any learner has seen it."""
        from rlhf.ppo.experience import describe_rollout

        reward = self._reward(rollout, sheet, asked.sources)
        self._require_scored(step, reward)
        said = describe_rollout(settled(rollout), reward.scores, reward.failed, self.config)
        return {**said, **self._of_parts(reward)}

    def _gold(self, asked: PromptBatch, responses: list[str]) -> Metrics:
        from rlhf.ppo.transcripts import gold_scores

        gold = [score for score in gold_scores(asked.prompts, responses) if score is not None]
        return {"reward/gold": Mean(sum(gold), float(len(gold)))} if gold else {}

    def save_transcripts(self, step: int) -> None:
        """Write rows of the experience that was built last."""
        from rlhf.ppo.transcripts import write_transcripts

        write_transcripts(self.work / "transcripts", step, self.config.transcripts_rows, self._last)

    def _of_parts(self, found: Total) -> Metrics:
        """A reward of one model alone says nothing more than its score."""
        from rlhf.rewards.total import describe_parts

        return describe_parts(found) if self.config.reward.parts or self.config.environment is not None else {}

    def _of_left_out(self, failed: Tensor) -> Metrics:
        """Rows that train nothing, where a run goes on without what is not finite."""
        return {"rollout/left_out": Sum(float(failed.sum()))} if isinstance(self.config.not_finite, SkipBatch) else {}

    def _parts(self) -> list[str]:
        return list(self.config.reward.contributions())

    def _sheet(self, step: int, rollout: Rollout, tensors: Sequence[Tensor]) -> Tensor:
        """Scores of every part, [B, K] float32, from what the ranks of each part in turn answered.

        Raises NumericError where a reward model answered what is not finite, or lets it be NaN where the config does.
        """
        if len(tensors) == 1 and tensors[0].dim() == 2:
            return tensors[0]
        remaining, columns = iter(tensors), []
        learned = self.config.reward.learned()
        for name in self._parts():
            ranks = learned[name].resources.ranks if name in learned else 1
            columns.append(self._join(rollout, [next(remaining) for _ in range(ranks)]))
            if name in learned:
                bad = self.finite.bad(step, reward_role(name), rollout, columns[-1])
                columns[-1] = columns[-1].masked_fill(bad, torch.nan)
        return torch.stack(columns, dim=1) if columns else torch.zeros(len(rollout), 0)

    def _reward(self, rollout: Rollout, sheet: Tensor, sources: Sequence[str]) -> Total:
        """The sum of the parts; a row whose environment failed has no score either."""
        from rlhf.rewards.total import total

        found = total(sheet, sources, self.config.reward.contributions())
        return replace(found, failed=found.failed | rollout.failed)

    def _require_scored(self, step: int, found: Total) -> None:
        """Raises RunError when more samples of a rollout have no score than the config allows."""
        failures, failed = self.config.reward.failures, int(found.failed.sum())
        if isinstance(failures, SkipFailures) and failed > failures.max_fraction * len(found.failed):
            missing = set().union(*found.without_score())
            parts = [name for name in found.names if name in missing] or ["the environment"]
            raise RunError(
                f"step {step + 1}: {failed} of {len(found.failed)} samples have no score of {', '.join(parts)}, more "
                f"than reward.failures.max_fraction = {failures.max_fraction:g}; the logs of its actors say why"
            )

    def _join(self, rollout: Rollout, parts: Sequence[Tensor]) -> Tensor:
        """One tensor for all rows from those of the ranks; zeros [B, T] where nobody was asked."""
        if not parts:
            return torch.zeros(rollout.tokens.shape)
        rows = partition.balance(rollout.lengths(), len(parts))
        return scatter_rows(parts, rows, rollout.tokens.shape[1])

    def _of_agreement(self, step: int, rollout: Rollout, logprobs: Tensor) -> Metrics:
        """How far sampler and learner are apart. Where they hold the same weights, too far is a NumericError."""
        from rlhf.ppo.experience import describe_gap

        if rollout.policy_version != step:
            return {"rollout/staleness": Max(float(step - rollout.policy_version))}
        metrics = describe_gap(rollout, logprobs)
        gap, bound = metrics["sync/logprob_gap_max"].value, self.config.rollout.weight_sync.max_gap
        full = self.config.rollout.top_p == 1.0 and self.config.rollout.top_k == -1
        if full and not gap <= bound and self.config.loop.samples:  # a replay may train another policy, on purpose
            raise NumericError(
                f"step {step + 1}: sampler and learner disagree by {gap:.3g} nats on a token, more than "
                f"rollout.weight_sync.max_gap = {bound:g}; the weights of the engines are not the policy's, or the "
                f"precisions differ (bfloat16 needs a bound near 1)"
            )
        return metrics


def settled(rollout: Rollout) -> Rollout:
    """The rollout with nothing paid where an environment failed."""
    return replace(rollout, turn_rewards=rollout.turn_rewards.masked_fill(rollout.failed[:, None], 0.0))
