"""The two trained roles of PPO as objectives of a learner."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.batch import Experience
from rlhf.metrics import Mean
from rlhf.objectives.kl import kl_estimate
from rlhf.objectives.masks import inside, masked_sum
from rlhf.objectives.policy import PolicyTerms, cispo_terms, gspo_terms, ppo_terms
from rlhf.objectives.reduction import StepTotals, row_weights, weighted_sum
from rlhf.objectives.value import value_loss
from rlhf.ppo import algorithm
from rlhf.ppo.algorithm import AlgorithmConfig
from rlhf.ppo.config import KLConfig
from rlhf.training.loss import Loss


class PolicyObjective:
    """The policy loss of the config, with KL penalty and entropy bonus where it asks for them."""

    role, scope = "policy", "policy"

    def __init__(self, algorithm: AlgorithmConfig, kl: KLConfig) -> None:
        self.algorithm = algorithm
        self.kl = kl
        self.kl_coef = kl.control.coef

    def output(self, model_output: object) -> Tensor:
        return model_output[0]  # type: ignore[index]

    def loss(self, model_output: object, experience: Experience, totals: StepTotals) -> Loss:
        logprobs, entropy = model_output  # type: ignore[misc]
        mask = experience.response_mask
        policy = policy_terms(self.algorithm.loss, logprobs, experience)
        terms = policy.terms * inside(mask, experience.weights)
        if self.kl.place == "loss":
            kl = kl_estimate(inside(mask, logprobs), inside(mask, experience.ref_logprobs), self.kl.estimator)
            terms = terms + self.kl_coef * kl
        if self.algorithm.entropy_coef:
            terms = terms - self.algorithm.entropy_coef * inside(mask, entropy)
        weights = row_weights(mask.sum(dim=1), self.algorithm.reduction, totals)
        count = float(mask.sum())
        return Loss(weighted_sum(terms, weights), {
            "policy/loss": Mean(float(terms.detach().sum()), count),
            "policy/clipfrac": Mean(float(policy.clipped), count),
            "policy/approx_kl": Mean(float(policy.approx_kl), count),
            "policy/entropy": Mean(float(masked_sum(entropy.detach(), mask)), count),
        })


def policy_terms(config: algorithm.PolicyLoss, logprobs: Tensor, experience: Experience) -> PolicyTerms:
    """The terms of the loss that the config names."""
    batch = (logprobs, experience.old_logprobs, experience.advantages, experience.response_mask)
    if isinstance(config, algorithm.GspoLoss):
        return gspo_terms(*batch, config.clip_range, config.clip_range_high)
    if isinstance(config, algorithm.CispoLoss):
        return cispo_terms(*batch, config.clip_range, config.clip_range_high)
    return ppo_terms(*batch, config.clip_range, config.clip_range_high or config.clip_range, config.dual_clip)


class CriticObjective:
    """PPO's clipped value loss, a mean over the tokens of the optimizer step."""

    role, scope = "critic", "value"

    def __init__(self, algorithm: AlgorithmConfig) -> None:
        self.algorithm = algorithm

    def output(self, model_output: object) -> Tensor:
        assert isinstance(model_output, torch.Tensor)
        return model_output

    def loss(self, model_output: object, experience: Experience, totals: StepTotals) -> Loss:
        assert isinstance(model_output, torch.Tensor)
        mask = experience.response_mask
        loss = value_loss(model_output, experience.values, experience.returns, mask, self.algorithm.value_clip)
        count = float(mask.sum())
        return Loss(loss.loss / max(1, totals.tokens), {
            "value/loss": Mean(float(loss.loss.detach()), count),
            "value/clipfrac": Mean(float(loss.clipped), count),
        })
