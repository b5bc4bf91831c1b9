"""The config of a PPO run. One section per role, one per decision of the algorithm."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from rlhf.config import Config
from rlhf.device import Precision
from rlhf.environments.config import AnyEnvironment
from rlhf.not_finite import NotFinite, StopAtOnce
from rlhf.objectives.names import KlEstimator
from rlhf.ppo.algorithm import AlgorithmConfig
from rlhf.ppo.algorithm_rules import RULES as ALGORITHM_RULES
from rlhf.ppo.device_rules import ANY_ROLES
from rlhf.ppo.device_rules import RULES as DEVICE_RULES
from rlhf.ppo.loop_config import Loop, Synchronous
from rlhf.rewards.config import MODEL, RewardModelConfig
from rlhf.roles import Resources, ScorerConfig
from rlhf.stage import ActorStageConfig, Input, ModelInput


class OptimizerConfig(Config):
    """AdamW and its learning rate."""

    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate")
    betas: tuple[float, float] = Field((0.9, 0.95), description="decay of the moment estimates")
    epsilon: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay")
    warmup_fraction: float = Field(0.03, ge=0, lt=1, description="share of all optimizer steps with a rising rate")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="after the warm-up")
    max_grad_norm: float = Field(1.0, gt=0, description="global gradient norm is clipped to this")


class ZeroConfig(Config):
    """How DeepSpeed splits a learner's states over its ranks (ZeRO, arXiv:1910.02054)."""

    stage: Literal[0, 1, 2, 3] = Field(2, description="0 nothing, 1 optimizer, 2 gradients, 3 parameters")
    offload_optimizer: bool = Field(False, description="optimizer states in CPU memory (GPU runs, stage 1 to 3)")
    offload_during_rollout: bool = Field(
        False, description="all states in CPU memory while engines on the same GPU sample (rollout.sleep, stage 2)"
    )

    @model_validator(mode="after")
    def _offload_needs_division(self) -> ZeroConfig:
        if self.offload_optimizer and self.stage == 0:
            raise ValueError("offload_optimizer needs stage 1, 2 or 3")
        if self.offload_during_rollout and self.stage != 2:
            raise ValueError("offload_during_rollout needs stage 2: DeepSpeed moves the states of no other stage")
        return self


class LearnerConfig(Config):
    """A model that DeepSpeed trains: the policy or the critic."""

    model: ModelInput = Field(description="directory or hub name")
    optimizer: OptimizerConfig = OptimizerConfig()
    zero: ZeroConfig = ZeroConfig()
    precision: Precision = Field("float32", description="of the weights in use; bfloat16 keeps float32 masters")
    micro_batch_tokens: int = Field(8192, gt=0, description="padded tokens of one forward and backward pass")
    graph_tokens: int | None = Field(
        None, gt=0, description="padded tokens whose activations a rank may keep from scoring to the update, where a "
        "step is one optimizer step; default: micro_batch_tokens"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    frozen_layers: int = Field(0, ge=0, description="lowest layers that stay as they are, with untied embeddings")
    resources: Resources = Resources()


class LoraConfig(Config):
    """Low-rank adapters (LoRA, arXiv:2106.09685): W + (alpha / rank) B A, of which only A and B are trained."""

    rank: int = Field(16, gt=0, description="rows of A and columns of B")
    alpha: float = Field(32.0, gt=0, description="scale of the adapters, divided by the rank")
    layers: list[str] | None = Field(
        None, min_length=1, description="names of the linear layers, q_proj for example; default: all but the output"
    )


class PolicyConfig(LearnerConfig):
    """The model that PPO trains."""

    lora: LoraConfig | None = Field(None, description="train adapters instead of the weights; null: the weights")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="also keep and publish an average of the weights (directory ema); 0.992 is usual"
    )


class CriticConfig(LearnerConfig):
    """The value function that PPO trains."""

    optimizer: OptimizerConfig = OptimizerConfig(learning_rate=9e-6)


class WeightSyncConfig(Config):
    """How new policy weights reach the engines."""

    kind: Literal["object_store", "nccl", "cuda_ipc"] = Field(
        "object_store",
        description="object_store: through host memory, anywhere; nccl: broadcast between GPUs; cuda_ipc: between "
        "processes that share a GPU",
    )
    max_gap: float = Field(
        1e-3, gt=0, description="nats; the run stops when sampler and learner differ by more on any token; in bfloat16 "
        "start with 1.0"
    )


class SamplerConfig(Config):
    """vLLM engines, and how they draw."""

    max_new_tokens: int = Field(256, gt=0, description="longest response; longer ones are cut and count as truncated")
    temperature: float = Field(1.0, gt=0, description="divides the logits, of sampler and learner alike")
    top_p: float = Field(
        1.0, gt=0, le=1, description="below 1, or with top_k, sampler and learner differ on purpose: no gap is checked"
    )
    top_k: int = Field(-1, ge=-1, description="−1: the full vocabulary")
    max_model_len: int | None = Field(None, gt=0, description="context of the engine; default: the model's own")
    precision: Precision = "float32"
    max_sequences: int = Field(256, gt=0, description="requests that an engine runs at once")
    kv_cache_gib: int = Field(1, ge=1, description="KV cache of an engine on a CPU, GiB")
    gpu_memory_fraction: float = Field(0.85, gt=0, le=1, description="share of the GPU for weights and KV cache")
    tensor_parallel: int = Field(1, ge=1, description="GPUs of one engine")
    prefix_caching: bool = Field(False, description="reuse the KV cache of equal prompt starts")
    resources: Resources = Resources()


class RolloutConfig(SamplerConfig):
    """The sampler of a PPO run."""

    prompts_per_step: int = Field(128, gt=0, description="prompts of one PPO step")
    responses_per_prompt: int = Field(1, gt=0, description="the group of an estimator that compares responses")
    max_prompt_tokens: int | None = Field(None, gt=0, description="longest prompt; default: what the context leaves")
    save: bool = Field(False, description="keep every rollout as parquet in the directory rollouts of the result")
    sleep: bool = Field(False, description="give the GPU back between rollouts (engine shares it with learners)")
    weight_sync: WeightSyncConfig = WeightSyncConfig()


class FixedKL(Config):
    """β stays as it is."""

    kind: Literal["fixed"] = "fixed"
    coef: float = Field(0.05, ge=0, description="β, per nat")


class AdaptiveKL(Config):
    """β follows a target (Ziegler et al. 2019, arXiv:1909.08593, section 2.2)."""

    kind: Literal["adaptive"]
    coef: float = Field(0.05, gt=0, description="initial β, per nat")
    target: float = Field(gt=0, description="KL to the reference that is aimed at, nats per response")
    horizon: int = Field(10000, gt=0, description="responses over which β can grow by a fifth")


class KLConfig(Config):
    """The KL penalty towards the reference."""

    control: Annotated[FixedKL | AdaptiveKL, Field(discriminator="kind")] = FixedKL()
    estimator: KlEstimator = Field(
        "k1", description="in the loss take k2 or k3: the gradient of k1 there is 0 in expectation"
    )
    place: Literal["reward", "loss"] = Field("reward", description="subtracted from rewards, or added to the loss")


class NoPenalty(Config):
    """A response cut at the length limit keeps its score."""

    kind: Literal["none"] = "none"


class SubtractPenalty(Config):
    """Subtract from the score of a response that was cut at the length limit."""

    kind: Literal["subtract"]
    amount: float = Field(ge=0, description="in units of the reward")


class OverrideScore(Config):
    """Replace the score of a response that was cut at the length limit."""

    kind: Literal["override"]
    score: float = Field(description="in units of the reward")


class NoLengthPenalty(Config):
    """Length does not change a score."""

    kind: Literal["none"] = "none"


class LinearLengthPenalty(Config):
    """Subtract an amount for each token beyond the free ones."""

    kind: Literal["linear"]
    per_token: float = Field(gt=0, description="in units of the reward")
    free: int = Field(0, ge=0, description="tokens that cost nothing")


class SoftOverlongPenalty(Config):
    """Subtract up to `scale`, rising over the last `buffer` tokens before the limit (DAPO, arXiv:2503.14476)."""

    kind: Literal["soft_overlong"]
    buffer: int = Field(gt=0, description="tokens before rollout.max_new_tokens over which it rises")
    scale: float = Field(1.0, gt=0, description="in units of the reward")


class RewardConfig(RewardModelConfig):
    """What a response is worth: the reward model, further parts, and what happens to their sum."""

    clip: float = Field(10.0, gt=0, description="scores are clipped to ± this")
    length_penalty: Annotated[
        NoLengthPenalty | LinearLengthPenalty | SoftOverlongPenalty, Field(discriminator="kind")
    ] = NoLengthPenalty()
    missing_eos: Annotated[NoPenalty | SubtractPenalty | OverrideScore, Field(discriminator="kind")] = NoPenalty()


class PtxConfig(Config):
    """Pretraining text beside PPO's own loss (PPO-ptx, arXiv:2203.02155), against forgetting."""

    texts: list[Input] = Field(min_length=1, description="files of text records")
    coef: float = Field(1.0, gt=0, description="γ, of the mean loss per token of text")
    block_length: int = Field(128, gt=1, description="tokens of a block; documents follow each other in it")
    blocks_per_step: int = Field(16, gt=0, description="blocks of each optimizer step, over all ranks")


class PPOConfig(ActorStageConfig):
    """Everything of a PPO run."""

    steps: int = Field(100, gt=0, description="rollout–update cycles")
    prompts: Input = Field(description="file of prompts")
    policy: PolicyConfig
    critic: CriticConfig | None = Field(None, description="for ppo.advantage.kind gae; the other kinds use none")
    reference: ScorerConfig
    reward: RewardConfig
    rollout: RolloutConfig = RolloutConfig()
    ppo: AlgorithmConfig = AlgorithmConfig()
    loop: Annotated[Loop, Field(discriminator="kind")] = Synchronous()
    kl: KLConfig = KLConfig()
    not_finite: NotFinite = StopAtOnce()
    environment: AnyEnvironment | None = Field(None, description="what answers the policy; null: a single response")
    ptx: PtxConfig | None = Field(None, description="null: none")
    checkpoint_every: int = Field(20, gt=0, description="steps between checkpoints")
    keep_checkpoints: int = Field(2, gt=0, description="newest checkpoints that stay")
    best_checkpoint: str | None = Field(
        "reward/score", description="metric whose highest value at a checkpoint lets that one stay, too; null: none"
    )
    transcripts_every: int = Field(5, gt=0, description="steps between saved sample transcripts")
    transcripts_rows: int = Field(32, gt=0, description="responses of each such step that are saved")

    @model_validator(mode="after")
    def _parts_fit(self) -> PPOConfig:
        whole = self.loop.samples and self.loop.trains
        for rule in (*ALGORITHM_RULES, *(DEVICE_RULES if whole else ANY_ROLES)):
            rule(self)
        return self

    def roles(self) -> dict[str, Resources]:
        """Resources of every role that the run has, by name; a second reward model is the role `reward.NAME`."""
        trained = {"policy": self.policy, "critic": self.critic, "reference": self.reference}
        found = {name: role.resources for name, role in trained.items() if role is not None and self.loop.trains}
        if self.loop.samples:
            found.update({reward_role(name): model.resources for name, model in self.reward.learned().items()})
            found["rollout"] = self.rollout.resources
        return {name: _alone(resources, self._all_roles() - found.keys()) for name, resources in found.items()}

    def _all_roles(self) -> set[str]:
        return {"policy", "reference", "rollout", "reward"} | ({"critic"} if self.critic is not None else set())

    def place_of(self, role: str) -> str:
        """The role whose devices a role runs on: its own, or those that it shares."""
        return self.roles()[role].share or role

    @property
    def responses_per_step(self) -> int:
        """Rows of a rollout."""
        return self.rollout.prompts_per_step * self.rollout.responses_per_prompt

    @property
    def longest_response(self) -> int:
        """Sampled tokens of a row at most."""
        turns = self.environment.max_turns if self.environment is not None else 1
        return self.rollout.max_new_tokens * turns

    def optimizer_steps(self, role: Literal["policy", "critic"]) -> int:
        """Optimizer steps of the whole run, of a learner."""
        idle = self.ppo.critic_warmup_steps if role == "policy" else 0
        return (self.steps - idle) * self.ppo.epochs * self.ppo.minibatches


def _alone(resources: Resources, not_started: set[str]) -> Resources:
    """A role whose devices belong to one that this run does not start has them for itself."""
    return resources.model_copy(update={"share": None}) if resources.share in not_started else resources


def reward_role(part: str) -> str:
    """The role of a part of the reward."""
    return "reward" if part == MODEL else f"reward.{part}"
