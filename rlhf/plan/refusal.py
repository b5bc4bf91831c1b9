"""What stops a run before its processes start: model states that no device can hold. Everything else only warns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError, ModelError, ResourceError
from rlhf.plan import hosts
from rlhf.plan.architecture import Architecture
from rlhf.plan.demands import Demand, demands
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import GIB, Cluster
from rlhf.plan.places import Device
from rlhf.plan.ray_cluster import ray_cluster
from rlhf.plan.remedies import remedy
from rlhf.plan.sizes import Sizes, from_transformers
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.training_remedies import training_remedy
from rlhf.plan.verdict import Fit, fit
from rlhf.ppo.config import PPOConfig

STAY = "states stay on the GPUs (offload_optimizer, offload_parameters, offload_during_rollout: false), or more memory"


class LoadableSizes(Sizes):
    """Sizes by transformers itself: of a run whose models are there, or are fetched from the hub anyway. Each is read
    once: the search for a remedy asks thousands of times."""

    def of(self, value: str, key: str) -> Architecture:
        """Raises ConfigError for a model that is no plain decoder."""
        where = Path(value).absolute()
        if where not in self.made:
            self.made[where] = self._loaded(value, key)
        return self.made[where]

    def _loaded(self, value: str, key: str) -> Architecture:
        from rlhf.models.loading import load_config

        try:
            return from_transformers(load_config(value).to_dict(), value)
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{key}: {value} does not describe a plain decoder ({error})") from None


def require_memory(stage: str, config: Any, note: Callable[[str], None]) -> None:
    """Asked before a run's processes start, of the Ray cluster that they will start on: raises ResourceError when it
    cannot hold them, and notes what will hardly fit. `stage`: ppo, pretrain, sft or reward."""
    for warning in check_memory(stage, config, ray_cluster()):
        note(f"warning: {warning}")


def check_memory(stage: str, config: Any, cluster: Cluster) -> list[str]:
    """Warnings about a run that is about to start; `cluster` holds what is known of its memory.

    Raises ResourceError where weights, gradients and optimizer states alone are more than a device, or the machine,
    has: no estimate is needed for that. Of models that the planner does not understand nothing is said.
    """
    sizes = LoadableSizes()
    try:
        asked = Asked.of(stage, config, sizes)
    except (ConfigError, ModelError):
        return []
    found = fit(asked.wanted, cluster)
    impossible = next(_impossible(asked.wanted, found), None)
    if impossible is not None:
        raise ResourceError(f"{impossible}; first thing to change: {asked.first(cluster)} (rlhf plan says more)")
    return [f"the plan expects too little memory: {problem}" for problem in found.problems if "GiB" in problem]


@dataclass(frozen=True)
class Asked:
    """What the processes of a stage ask for, and what to change first on a cluster that does not have it."""

    wanted: Sequence[Demand]
    remedy: Callable[[Cluster], str]

    @classmethod
    def of(cls, stage: str, config: Any, sizes: Sizes) -> Asked:
        """Raises ConfigError or ModelError where a model's sizes are not known."""
        if stage == "ppo":
            wanted = demands(config, sizes)
            return cls(wanted, lambda there: _smaller(config) if there.gpu is None else remedy(config, there, sizes))
        job = TrainStage.of(stage, config, sizes)  # type: ignore[arg-type]
        return cls([job.demand()], lambda there: training_remedy(job, there))

    def first(self, cluster: Cluster) -> str:
        """The remedy; where Ray does not say what kind its GPUs are, no search tells what they would hold."""
        return STAY if cluster.gpu is None and hosts.offloaded(self.wanted) else self.remedy(cluster)


def _impossible(wanted: Sequence[Demand], found: Fit) -> Iterator[str]:
    """What is sure not to fit."""
    cluster = found.cluster
    for device in found.devices:
        assert cluster.gpu is not None
        states = replace(device, times=1).certain
        if states > cluster.gpu.memory:
            yield f"{_states(device)} take {states / GIB:.1f} GiB of a GPU that has {cluster.gpu.memory / GIB:.1f}"
    for each in wanted:
        room = each.fraction * cluster.gpu.memory if cluster.gpu is not None and each.resources.gpus else None
        if isinstance(each.model, Engine) and room is not None and each.model.weights > room:
            yield (
                f"rollout: an engine's weights take {each.model.weights / GIB:.1f} GiB, and "
                f"rollout.gpu_memory_fraction leaves it {room / GIB:.1f}"
            )
    yield from _more_than_hosts_have(wanted, found)


def _more_than_hosts_have(wanted: Sequence[Demand], found: Fit) -> Iterator[str]:
    """States of processes on CPUs, and those that leave GPUs, against the memory of all nodes."""
    if found.cluster.node_memory is None:
        return
    has = found.cluster.nodes * found.cluster.node_memory
    total = sum(held.memory.certain for held in found.on_hosts) + hosts.offloaded(wanted)
    if total > has:
        whose = ["the processes on CPUs"] if found.on_hosts else []
        away = [each.role for each in wanted if each.offloaded]
        whose += [f"{' and '.join(away)} in host memory"] if away else []
        yield (
            f"weights, gradients and optimizer states of {' and '.join(whose)} take {total / GIB:.1f} GiB, and the "
            f"machine has {has / GIB:.1f}"
        )


def _states(device: Device) -> str:
    return f"weights, gradients and optimizer states of {device.name}"


def _smaller(config: PPOConfig) -> str:
    """On CPUs every rank is on the same machine: dividing saves nothing there."""
    return "policy.lora: {rank: 16}" if config.policy.lora is None and config.critic is None else "a smaller model"
