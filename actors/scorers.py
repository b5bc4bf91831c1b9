"""Hosts of what scores rollouts: the reference, the reward models, and rewards that read text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import ray
import torch
from torch import Tensor

from actors.network import collectives_at
from actors.process import RoleProcess
from rlhf import device
from rlhf.batch import PromptBatch, Rollout, concatenate
from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig, RewardConfig
from rlhf.ppo.scoring import Passes, reference_logprobs, reward_scores
from rlhf.rewards.config import StopOnFailure
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.rewards.unscored import save_samples
from rlhf.roles import Resources, ScorerConfig


class FrozenProcess(RoleProcess, ABC):
    """A rank of a model that does not train. Where its weights are divided over the ranks, it is built in two steps:
    they have to meet before they load."""

    def __init__(self, rank: int, config: ScorerConfig, pad_token: int) -> None:
        super().__init__(rank, config.resources)
        self.config, self.pad_token = config, pad_token
        if not config.divided:
            self.model = self._module(device.dtype(config.precision)).to(device.current()).eval()

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks, and load this one's share."""
        from rlhf.training.divided import divided, dividing
        from rlhf.training.ranks import Rank, join_ranks

        collectives_at(ray.util.get_node_ip_address())
        join_ranks(Rank(self.rank, self.config.resources.ranks, address, port))
        with dividing(self.config.precision):
            module = self._module(device.dtype(self.config.precision))
        self.model = divided(module, self.config.precision)

    @abstractmethod
    def _module(self, dtype: torch.dtype) -> torch.nn.Module:
        """The model on the CPU."""

    def passes(self, rollout: Rollout) -> Passes:
        """What this rank computes of a rollout."""
        make = Passes.together if self.config.divided else Passes.alone
        return make(rollout, self.config.micro_batch_tokens, self.rank, self.config.resources.ranks)


class ReferenceProcess(FrozenProcess):
    """A copy of the policy as it was before PPO."""

    role = "reference"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int) -> None:
        self.temperature = config.rollout.temperature
        super().__init__(rank, config.reference, pad_token)

    def _module(self, dtype: torch.dtype) -> torch.nn.Module:
        from rlhf.models.heads import PolicyModel
        from rlhf.models.loading import load_causal_lm

        return PolicyModel(load_causal_lm(self.config.model, dtype), self.temperature)

    def logprobs(self, *shards: Rollout) -> tuple[Tensor, None]:
        """log π_ref of this rank's rows, [b, T] float32, nats; and a receipt."""
        rollout = concatenate(shards, self.pad_token)
        return reference_logprobs(self.model, rollout, self.passes(rollout)), None


class RewardProcess(FrozenProcess):
    """A reward model."""

    def __init__(self, rank: int, role: str, config: ScorerConfig, pad_token: int, end_token: int) -> None:
        self.role, self.end_token = role, end_token
        super().__init__(rank, config, pad_token)

    def _module(self, dtype: torch.dtype) -> torch.nn.Module:
        from rlhf.models.heads import SequenceScorer
        from rlhf.models.loading import load_reward_model

        return SequenceScorer(load_reward_model(self.config.model, dtype))

    def score(self, *shards: Rollout) -> tuple[Tensor, None]:
        """Scores of this rank's rows, [b] float32; and a receipt."""
        rollout = concatenate(shards, self.pad_token)
        return reward_scores(self.model, rollout, self.passes(rollout), self.end_token), None


class TextRewardProcess(RoleProcess):
    """A part of the reward that reads text: a function, a service or a rule. One process, which reserves nothing."""

    def __init__(
        self, rank: int, role: str, config: RewardConfig, part: str, tokenizer: str, pad_token: int, work: Path
    ) -> None:
        super().__init__(rank, Resources(cpus=0))
        from rlhf.models.loading import load_tokenizer
        from rlhf.rewards.limits import limits_of
        from rlhf.rewards.scorers import scorer_of

        self.role, self.part, self.failures, self.pad_token = role, config.parts[part], config.failures, pad_token
        self.kept = work / "failures" / f"{role}.jsonl"
        self.tokenizer = load_tokenizer(tokenizer)
        self.scorer = scorer_of(self.part, f"reward.parts.{part}", limits_of(config))

    def score(self, asked: PromptBatch, *shards: Rollout) -> tuple[Tensor, None]:
        """Scores of all rows, [B] float32, NaN where there is none and the config says to go on; and a receipt.

        Raises RunError for a sample without a score where the config says to stop; the samples are saved.
        """
        from rlhf.rewards.samples import samples_of

        rollout = concatenate(shards, self.pad_token)
        samples = samples_of(asked, rollout, self.tokenizer)
        applies = self.part.applies_to([sample.source for sample in samples])
        chosen = [row for row, scored in enumerate(applies) if scored]
        scores = torch.zeros(len(samples))
        if chosen:
            scores[chosen] = self._numbers([samples[row] for row in chosen])
        return scores, None

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
                kept = save_samples(self.kept, samples, answers)
                raise RunError(f"{said}; the samples {kept}; mend that, or set reward.failures.kind: skip")
            print(said, flush=True)  # in the actor's log
        return torch.tensor([float("nan") if isinstance(answer, Failure) else answer for answer in answers])
