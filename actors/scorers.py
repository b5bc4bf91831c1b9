"""Hosts of the frozen roles: the reference and the reward model."""

from __future__ import annotations

import torch
from torch import Tensor

from actors.process import RoleProcess
from rlhf import device
from rlhf.batch import Rollout, concatenate
from rlhf.ppo.config import PPOConfig


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
    """The reward model."""

    role = "reward"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int, end_token: int) -> None:
        super().__init__(rank, config.reward.resources)
        from rlhf.models.heads import SequenceScorer
        from rlhf.models.loading import load_reward_model

        self.config, self.pad_token, self.end_token = config.reward, pad_token, end_token
        model = load_reward_model(config.reward.model, device.dtype(config.reward.precision))
        self.model = SequenceScorer(model).to(device.current()).eval()

    def score(self, *shards: Rollout) -> tuple[Tensor, None]:
        """Scores of this rank's rows, [b] float32; and a receipt."""
        from rlhf.ppo.scoring import reward_scores, rows_of_rank

        rollout = concatenate(shards, self.pad_token)
        rows = rows_of_rank(rollout, self.rank, self.config.resources.ranks)
        with torch.inference_mode():
            return reward_scores(self.model, rollout, rows, self.end_token, self.config.micro_batch_tokens), None
