"""What the roles of a PPO config, or the workers of a training job, ask of one device each."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.device import Precision
from rlhf.plan.architecture import Architecture
from rlhf.plan.frozen import Engine, Frozen
from rlhf.plan.hardware import Gpu
from rlhf.plan.memory import ON_CPU, ON_GPU, Memory
from rlhf.plan.sizes import Sizes
from rlhf.plan.states import FLOAT32, Zero
from rlhf.plan.trained import Output, Trained
from rlhf.ppo.config import LearnerConfig, LoraConfig, PPOConfig, reward_role
from rlhf.roles import FrozenConfig, Resources
from rlhf.sampling.weight_transfer import BUCKET_BYTES

BYTES: dict[Precision, int] = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Demand:
    """A role: its processes, and what one of them holds. `fraction` and `cache_gib` are an engine's."""

    role: str
    resources: Resources
    model: Trained | Frozen | Engine
    fraction: float = 0.0
    cache_gib: int = 0

    def on(self, gpu: Gpu | None) -> Memory:
        """Of one process on one GPU of this kind, or in a node's memory."""
        runtime = ON_GPU if gpu is not None else ON_CPU
        if not isinstance(self.model, Engine):
            return self.model.memory(runtime)
        if gpu is None:
            return self.model.on_cpu(self.cache_gib, runtime)
        return self.model.on_gpu(self.fraction * gpu.memory, runtime)

    @property
    def offloaded(self) -> float:
        """Bytes of its node's memory that the states of one process on a GPU take."""
        return self.model.offloaded if isinstance(self.model, Trained) and self.resources.gpus else 0.0

    @property
    def gpus_of_process(self) -> int:
        """GPUs that one process spreads over."""
        return self.model.tensor_parallel if isinstance(self.model, Engine) else 1


@dataclass(frozen=True)
class Lengths:
    """Tokens of a row: the longest prompt, the longest response, and what an engine's context allows both."""

    prompt: int
    response: int

    @property
    def row(self) -> int:
        return self.prompt + self.response


def lengths(config: PPOConfig, policy: Architecture) -> Lengths:
    """The longest row that a config allows."""
    context = config.rollout.max_model_len or policy.context or 2 * config.longest_response
    response = min(config.longest_response, context)
    room = max(1, context - config.rollout.max_new_tokens)
    prompt = min(config.rollout.max_prompt_tokens or room, max(1, context - response))
    return Lengths(prompt, response)


def demands(config: PPOConfig, sizes: Sizes) -> list[Demand]:
    """Every role that a run starts, by the same names and in the same places. Raises ConfigError for unknown sizes."""
    resources, found = config.roles(), []
    policy = sizes.of(config.policy.model, "policy.model")
    row = lengths(config, policy).row
    if "policy" in resources:
        found.append(Demand("policy", resources["policy"], _learner(config, config.policy, policy, row)))
    if "critic" in resources and config.critic is not None:
        critic = sizes.of(config.critic.model, "critic.model").scored()
        found.append(Demand("critic", resources["critic"], _learner(config, config.critic, critic, row)))
    if "reference" in resources:
        reference = sizes.of(config.reference.model, "reference.model")
        found.append(Demand("reference", resources["reference"], _scorer(config, config.reference, reference, row)))
    for part, scorer in (config.reward.learned() if config.loop.samples else {}).items():
        role = reward_role(part)
        model = sizes.of(scorer.model, f"{role}.model").scored()
        found.append(Demand(role, resources[role], _scorer(config, scorer, model, row)))
    if "rollout" in resources:
        found.append(_engine(config, resources["rollout"], policy, row))
    return found


def _engine(config: PPOConfig, resources: Resources, model: Architecture, row: int) -> Demand:
    """An NCCL transfer fills two buckets on every GPU of an engine; a bucket takes the largest weight whole."""
    rollout, width = config.rollout, BYTES[config.rollout.precision]
    transfer = 2 * max(BUCKET_BYTES, width * model.embedding) if rollout.weight_sync.kind == "nccl" else 0
    spec = Engine(model, width, rollout.tensor_parallel, rollout.max_sequences, row, rollout.sleep, transfer)
    return Demand("rollout", resources, spec, rollout.gpu_memory_fraction, rollout.kv_cache_gib)


def _learner(config: PPOConfig, settings: LearnerConfig, model: Architecture, row: int) -> Trained:
    is_policy = settings is config.policy
    lora = config.policy.lora if is_policy else None
    zero = Zero(settings.zero.stage, settings.resources.ranks, settings.zero.offload_optimizer)
    return Trained(
        model, zero, BYTES[settings.precision], trained(model, lora, settings.frozen_layers),
        tokens=_micro_batch(config, settings, row), output=Output.LOGPROBS if model.output else Output.SCORE,
        checkpointing=settings.gradient_checkpointing, accumulated=FLOAT32,
        averaged=is_policy and config.policy.ema_decay is not None, leaves=settings.zero.offload_during_rollout,
    )


def _micro_batch(config: PPOConfig, settings: LearnerConfig, row: int) -> int:
    """Padded tokens whose activations are alive at once: of a micro-batch, or of the whole share of a rank where its
    graphs wait for the update. A row that is longer than the budget stands alone."""
    share = -(-config.responses_per_step // settings.resources.ranks) * row
    one_step = config.ppo.epochs * config.ppo.minibatches == 1
    retained = settings.graph_tokens or settings.micro_batch_tokens
    if one_step and share <= retained and (settings.zero.stage < 3 or share <= settings.micro_batch_tokens):
        return share
    return _rows_within(settings.micro_batch_tokens, share, row)


def _scorer(config: PPOConfig, settings: FrozenConfig, model: Architecture, row: int) -> Frozen:
    share = -(-config.responses_per_step // settings.resources.ranks) * row
    ranks = settings.resources.ranks if settings.divided else 1
    return Frozen(model, BYTES[settings.precision], _rows_within(settings.micro_batch_tokens, share, row), ranks)


def _rows_within(budget: int, share: int, row: int) -> int:
    return max(row, min(budget, share) // row * row)


def trained(model: Architecture, lora: LoraConfig | None, frozen_layers: int) -> int:
    """Parameters that are trained."""
    if lora is not None:
        shapes = model.linear_shapes
        chosen = lora.layers if lora.layers is not None else list(shapes)
        return model.layers * sum(lora.rank * sum(shapes[name]) for name in chosen if name in shapes)
    below = frozen_layers * model.layer_parameters
    embedding = model.embedding if frozen_layers and not model.tied else 0
    return model.parameters - below - embedding
