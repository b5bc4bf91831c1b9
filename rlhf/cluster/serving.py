"""The engine that serves what a run publishes: in which precision, on how many GPUs, and whether they hold it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from rlhf.cluster.planned import Planned
from rlhf.errors import ConfigError
from rlhf.plan.architecture import Architecture
from rlhf.plan.demands import BYTES
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import GIB, Gpu
from rlhf.plan.memory import ON_CPU, ON_GPU
from rlhf.ppo.config import PPOConfig, RolloutConfig
from rlhf.roles import Resources
from rlhf.stage import StageConfig
from rlhf.training.config import TrainingConfig

SHARE = 0.92  # of a GPU: what vLLM 0.32 takes unless it is told otherwise
AT_ONCE = 1024  # sequences: vLLM's own choice for a server on GPUs of 70 GiB and more, 256 on smaller ones
WIDTHS = (1, 2, 4, 8)
ROOMY = (8, 8192)  # sequences, and tokens of each at most, that are to run at once where no config says how wide


@dataclass(frozen=True)
class Serving:
    """One engine: `rollout` is the sampler that it is, `resources` what all of its processes reserve together."""

    rollout: RolloutConfig
    resources: Resources
    host: float  # bytes that the plan gives it in host memory; 0 where nobody knows, or where GPUs hold the model

    @property
    def bundle(self) -> dict[str, int]:
        """What each of its processes reserves."""
        parts = self.rollout.tensor_parallel
        gpus = {"GPU": int(self.resources.gpus) // parts} if self.resources.gpus else {}
        return {"CPU": int(self.resources.cpus) // parts, **gpus}


def serving(stage: str, config: StageConfig, planned: Planned, gpu: Gpu, most: int) -> Serving:
    """The engine of a run's rollouts; of a stage without any one in bfloat16 on `gpu`, `most` of a node, where its
    training has GPUs, else one on a CPU.

    Raises ConfigError for an engine that such GPUs do not hold, and where nobody knows how large the model is.
    """
    if isinstance(config, PPOConfig):
        model = planned.models.get(stage)
        if model is not None and config.rollout.resources.gpus:
            _require_room(config.rollout, model, gpu, most)
        return _engine(config.rollout, model)
    training = getattr(config, "training", None)
    if not isinstance(training, TrainingConfig) or not training.workers.gpus:
        return _engine(RolloutConfig(), planned.models.get(stage))
    model = planned.model(stage)
    plain, (sequences, tokens) = RolloutConfig(precision="bfloat16"), ROOMY
    cache = max(model.context, sequences * min(tokens, model.context))
    parts = _narrowest(_planned(model, plain), cache, gpu, most)
    if parts is None:
        raise ConfigError(f"--kind rayservice: {_too_large(_planned(model, plain), cache, gpu, most)}")
    resources = Resources(cpus=parts * training.workers.cpus, gpus=parts)
    return _engine(plain.model_copy(update={"tensor_parallel": parts, "resources": resources}), model)


def _engine(rollout: RolloutConfig, model: Architecture | None) -> Serving:
    parts, gpus = rollout.tensor_parallel, min(1, math.ceil(rollout.resources.gpus))
    host = 0.0
    if model is not None and not gpus:
        host = _planned(model, rollout).on_cpu(rollout.kv_cache_gib, ON_CPU).peak
    cpus = max(parts, math.ceil(rollout.resources.cpus))
    return Serving(rollout, Resources(gpus=parts * gpus, cpus=cpus), host)


def _require_room(rollout: RolloutConfig, model: Architecture, gpu: Gpu, most: int) -> None:
    """Room for one sequence, without which vLLM does not start."""
    engine = _planned(model, rollout)
    if _holds(engine, engine.context, gpu):
        return
    least = _narrowest(engine, engine.context, gpu, most)
    if least is None:
        raise ConfigError(f"--kind rayservice: {_too_large(engine, engine.context, gpu, most)}")
    raise ConfigError(
        f"--kind rayservice: {rollout.tensor_parallel} × {gpu.kind} GiB do not hold {model.name} in "
        f"{rollout.precision} and a cache of {engine.context} tokens; give rollout.tensor_parallel={least} "
        f"rollout.resources.gpus={least}"
    )


def _too_large(engine: Engine, cache: int, gpu: Gpu, most: int) -> str:
    model = engine.model
    return (
        f"{model.name} has {engine.width * model.parameters / GIB:.0f} GiB of weights, and no number of GPUs that its "
        f"heads divide over, up to {most} × {gpu.kind} GiB, holds them and a cache of {cache} tokens; give --gpu of a "
        f"kind with more memory"
    )


def _narrowest(engine: Engine, cache: int, gpu: Gpu, most: int) -> int | None:
    """The fewest GPUs that hold the engine, which shares the attention heads out; None where none do."""
    widths = (width for width in WIDTHS if width <= most and engine.model.heads % width == 0)
    return next((width for width in widths if _holds(replace(engine, tensor_parallel=width), cache, gpu)), None)


def _holds(engine: Engine, cache: int, gpu: Gpu) -> bool:
    """Whether weights, workspace and a KV cache of so many tokens have room."""
    return engine.cached_tokens(engine.on_gpu(SHARE * gpu.memory, ON_GPU)) >= max(1, cache)


def _planned(model: Architecture, rollout: RolloutConfig) -> Engine:
    context = rollout.max_model_len or model.context
    return Engine(model, BYTES[rollout.precision], rollout.tensor_parallel, AT_ONCE, context)
