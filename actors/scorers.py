"""Hosts of what scores rollouts: the reference, the reward models, and rewards that read text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from actors.process import RoleProcess
from rlhf import device
from rlhf.batch import PromptBatch, Rollout, concatenate
from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig, RewardConfig
from rlhf.rewards.config import StopOnFailure
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.roles import Resources, ScorerConfig


class ReferenceProcess(RoleProcess):
    """A copy of the policy as it was before PPO."""

    role = "reference"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int) -> None:
        super().__init__(rank, config.reference.resources)
        from rlhf.models.heads import PolicyModel
        from rlhf.models.loading import load_causal_lm

        self.config, self.pad_token = config.reference, pad_token
        model = load_causal_lm(config.reference.model, device.dtype(config.reference.precision))
        self.model = PolicyModel(model, config.rollout.temperature).to(device.current()).eval()

    def logprobs(self, *shards: Rollout) -> tuple[Tensor, None]:
        """log π_ref of this rank's rows, [b, T] float32, nats; and a receipt."""
        from rlhf.ppo.scoring import reference_logprobs, rows_of_rank

        rollout = concatenate(shards, self.pad_token)
        rows = rows_of_rank(rollout, self.rank, self.config.resources.ranks)
        return reference_logprobs(self.model, rollout, rows, self.config.micro_batch_tokens), None


class RewardProcess(RoleProcess):
    """A reward model."""

    def __init__(self, rank: int, role: str, config: ScorerConfig, pad_token: int, end_token: int) -> None:
        super().__init__(rank, config.resources)
        from rlhf.models.heads import SequenceScorer
        from rlhf.models.loading import load_reward_model

        self.role, self.config, self.pad_token, self.end_token = role, config, pad_token, end_token
        model = load_reward_model(config.model, device.dtype(config.precision))
        self.model = SequenceScorer(model).to(device.current()).eval()

    def score(self, *shards: Rollout) -> tuple[Tensor, None]:
        """Scores of this rank's rows, [b] float32; and a receipt."""
        from rlhf.ppo.scoring import reward_scores, rows_of_rank

        rollout = concatenate(shards, self.pad_token)
        rows = rows_of_rank(rollout, self.rank, self.config.resources.ranks)
        with torch.inference_mode():
            return reward_scores(self.model, rollout, rows, self.end_token, self.config.micro_batch_tokens), None


class TextRewardProcess(RoleProcess):
    """A part of the reward that reads text: a function, a service or a rule. One process, which reserves nothing."""

    def __init__(self, rank: int, role: str, config: RewardConfig, part: str, tokenizer: str, pad_token: int) -> None:
        super().__init__(rank, Resources(cpus=0))
        from rlhf.models.loading import load_tokenizer
        from rlhf.rewards.scorers import scorer_of

        self.role, self.part, self.failures, self.pad_token = role, config.parts[part], config.failures, pad_token
        self.tokenizer = load_tokenizer(tokenizer)
        self.scorer = scorer_of(self.part, f"reward.parts.{part}")

    def score(self, asked: PromptBatch, *shards: Rollout) -> tuple[Tensor, None]:
        """Scores of all rows, [B] float32, NaN where there is none and the config says to go on; and a receipt.

        Raises RunError for a sample without a score where the config says to stop.
        """
        from rlhf.ppo.scoring import rows_of_rank
        from rlhf.rewards.samples import samples_of

        rollout = concatenate(shards, self.pad_token)
        samples = samples_of(asked, rollout, self.tokenizer)
        applies = self.part.applies_to([sample.source for sample in samples])
        chosen = [row for row, scored in enumerate(applies) if scored]
        scores = torch.zeros(len(samples))
        if chosen:
            scores[chosen] = self._numbers([samples[row] for row in chosen])
        return scores[rows_of_rank(rollout, 0, 1)], None

    def _numbers(self, samples: Sequence[RewardSample]) -> Tensor:
        answers = self.scorer(samples)
        pairs = zip(samples, answers, strict=True)
        failed = [(sample.id, answer.reason) for sample, answer in pairs if isinstance(answer, Failure)]
        if failed:
            said = (
                f"{self.role}: {len(failed)} of {len(samples)} samples have no score; prompt {failed[0][0]}: "
                f"{failed[0][1]}"
            )
            if isinstance(self.failures, StopOnFailure):
                raise RunError(f"{said}; mend that, or set reward.failures.kind: skip")
            print(said, flush=True)  # in the actor's log
        return torch.tensor([float("nan") if isinstance(answer, Failure) else answer for answer in answers])
