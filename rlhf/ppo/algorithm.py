"""What makes one policy-gradient method different from another: advantages, losses, reductions, corrections.

Every choice is a section with a `kind`; what a kind does is in `estimators.py` and `objectives.py`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from rlhf.config import Config
from rlhf.objectives.names import Reduction


class AdvantageConfig(Config):
    """What an estimator needs besides scores."""

    critic: ClassVar[bool] = False
    greedy: ClassVar[bool] = False
    group: ClassVar[int] = 1  # responses per prompt at least


class Gae(AdvantageConfig):
    """Generalized advantage estimation with a critic (arXiv:1506.02438)."""

    critic = True
    kind: Literal["gae"] = "gae"
    gamma: float = Field(1.0, gt=0, le=1, description="discount of rewards")
    gae_lambda: float = Field(0.95, ge=0, le=1, description="1: Monte Carlo returns, 0: one-step differences")
    whiten: bool = Field(True, description="mean 0 and deviation 1 over the tokens of the whole rollout")


class Grpo(AdvantageConfig):
    """Score against the group's mean, in units of the group's deviation (arXiv:2402.03300)."""

    group = 2
    kind: Literal["grpo"]


class DrGrpo(AdvantageConfig):
    """Score against the group's mean (arXiv:2503.20783)."""

    group = 2
    kind: Literal["dr_grpo"]


class Rloo(AdvantageConfig):
    """Score, KL penalty included, against the mean of the group's other responses (arXiv:2402.14740)."""

    group = 2
    kind: Literal["rloo"]


class ReinforcePlusPlus(AdvantageConfig):
    """Discounted returns, whitened over the whole rollout (arXiv:2501.03262)."""

    kind: Literal["reinforce_pp"]
    gamma: float = Field(1.0, gt=0, le=1, description="discount of rewards")


class ReinforcePlusPlusBaseline(AdvantageConfig):
    """Score against the group's mean, whitened over the whole rollout (arXiv:2501.03262)."""

    group = 2
    kind: Literal["reinforce_pp_baseline"]


class ReMax(AdvantageConfig):
    """Score against that of the greedy response to the same prompt (arXiv:2310.10505)."""

    greedy = True
    kind: Literal["remax"]


class ClipLoss(Config):
    """PPO's clipped objective (Schulman et al. 2017, arXiv:1707.06347)."""

    kind: Literal["clip"] = "clip"
    clip_range: float = Field(0.2, gt=0, description="ε: the ratio is clipped to 1 ± ε")
    clip_range_high: float | None = Field(None, gt=0, description="upper ε where it differs (DAPO, arXiv:2503.14476)")
    dual_clip: float | None = Field(None, gt=1, description="bound c for negative advantages (arXiv:1912.09729)")


class GspoLoss(Config):
    """One clipped ratio per response (arXiv:2507.18071); its own reduction is sequence_mean_token_mean."""

    kind: Literal["gspo"]
    clip_range: float = Field(3e-4, gt=0, description="lower ε of the sequence ratio, a geometric mean")
    clip_range_high: float = Field(4e-4, gt=0, description="upper ε")


class CispoLoss(Config):
    """The clipped ratio as a constant weight of the log-probability (arXiv:2506.13585)."""

    kind: Literal["cispo"]
    clip_range: float = Field(1.0, gt=0, description="lower ε; 1: no lower bound")
    clip_range_high: float = Field(0.28, gt=0, description="upper ε")


class NoCorrection(Config):
    """The sampler's log-probabilities are only compared with the learner's."""

    kind: Literal["none"] = "none"


class TokenTis(Config):
    """Token terms are weighted by min(π_learner / π_sampler, cap)."""

    kind: Literal["token_tis"]
    cap: float = Field(2.0, gt=1)


class SequenceTis(Config):
    """Response terms are weighted by min(Π π_learner / π_sampler, cap)."""

    kind: Literal["sequence_tis"]
    cap: float = Field(2.0, gt=1)


class IcePop(Config):
    """Tokens whose π_learner / π_sampler lies outside [low, high] leave the loss (arXiv:2510.18855)."""

    kind: Literal["icepop"]
    low: float = Field(0.5, gt=0, lt=1)
    high: float = Field(5.0, gt=1)


class EveryGroup(Config):
    """A step trains on whatever it sampled."""

    kind: Literal["all"] = "all"


class InformativeGroups(Config):
    """Prompts whose responses all got one score are replaced by further prompts (DAPO, arXiv:2503.14476)."""

    kind: Literal["informative"]
    max_rollouts: int = Field(10, ge=1, description="rollouts of a step at most; with too few prompts by then it stops")


Advantage = Gae | Grpo | DrGrpo | Rloo | ReinforcePlusPlus | ReinforcePlusPlusBaseline | ReMax
PolicyLoss = ClipLoss | GspoLoss | CispoLoss
Correction = NoCorrection | TokenTis | SequenceTis | IcePop


class AlgorithmConfig(Config):
    """The policy-gradient method."""

    advantage: Annotated[Advantage, Field(discriminator="kind")] = Gae()
    loss: Annotated[PolicyLoss, Field(discriminator="kind")] = ClipLoss()
    reduction: Reduction = Field("token_mean", description="how token terms become the loss of an optimizer step")
    correction: Annotated[Correction, Field(discriminator="kind")] = NoCorrection()
    groups: Annotated[EveryGroup | InformativeGroups, Field(discriminator="kind")] = EveryGroup()
    overlong_filter: bool = Field(False, description="responses cut at the length limit leave the loss (DAPO)")
    entropy_coef: float = Field(0.0, ge=0, description="entropy bonus per token, in nats")
    value_clip: float | None = Field(0.2, gt=0, description="ε_v of the value loss; null: none")
    critic_warmup_steps: int = Field(0, ge=0, description="first steps in which the critic alone is trained")
    epochs: int = Field(1, ge=1, description="passes over each rollout")
    minibatches: int = Field(1, ge=1, description="optimizer steps per pass")
