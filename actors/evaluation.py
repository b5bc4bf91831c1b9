"""Host of what scores finished rollouts of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from actors.process import RoleProcess
from rlhf import device
from rlhf.batch import Rollout
from rlhf.evaluation.config import EvaluateConfig
from rlhf.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.ppo.config import Resources


class EvaluationProcess(RoleProcess):
    """Scores finished rollouts: reference log-probabilities, reward, perplexity."""

    role = "evaluation"

    def __init__(self, config: EvaluateConfig, resources: Resources) -> None:
        super().__init__(0, resources)
        self.config = config

    def reference_logprobs(self, model: str, rollouts: Mapping[str, Rollout]) -> dict[str, Tensor]:
        """log-probabilities of every rollout's response tokens under `model`, [B, T] each, nats."""
        from rlhf.ppo.scoring import Passes, reference_logprobs

        policy = self._policy(model)
        return {
            name: reference_logprobs(policy, rollout, Passes.alone(rollout, self.config.micro_batch_tokens))
            for name, rollout in rollouts.items()
        }

    def reward_scores(self, end_token: int, rollouts: Mapping[str, Rollout]) -> dict[str, Tensor]:
        """Scores of every rollout, [B] each; NaN when there is no reward model."""
        from rlhf.models.heads import SequenceScorer
        from rlhf.ppo.scoring import Passes, reward_scores

        if self.config.reward is None:
            return {name: torch.full((len(rollout),), math.nan) for name, rollout in rollouts.items()}
        classifier = load_reward_model(self.config.reward, device.dtype(self.config.precision))
        scorer = SequenceScorer(classifier).to(device.current()).eval()
        return {
            name: reward_scores(scorer, rollout, Passes.alone(rollout, self.config.micro_batch_tokens), end_token)
            for name, rollout in rollouts.items()
        }

    def perplexities(self, model: str, texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Perplexity of a model by language."""
        from rlhf.evaluation.perplexity import perplexities

        budget = self.config.micro_batch_tokens
        return perplexities(self._policy(model), load_tokenizer(model), texts, self.config.max_text_tokens, budget)

    def _policy(self, model: str):
        from rlhf.models.heads import PolicyModel

        language_model = load_causal_lm(model, device.dtype(self.config.precision))
        return PolicyModel(language_model, self.config.sampler.temperature).to(device.current()).eval()
