"""Which placements of the roles can work, checked on the config before anything starts. Rules raise ValueError."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf.ppo.config import PPOConfig

BFLOAT16_GAP = 0.02  # nats; below this, sampler and learner differ by rounding to 8 bits alone


def sharing_is_possible(config: PPOConfig) -> None:
    """A role shares the devices of a role that has its own, rank by rank."""
    for name, resources in config.roles().items():
        if resources.share is None:
            continue
        owner = config.roles().get(resources.share)
        if owner is None:
            raise ValueError(f"{name}.resources.share: the run has no {resources.share} to share devices with")
        if resources.share == name or owner.share is not None:
            raise ValueError(f"{name}.resources.share: '{resources.share}' has no devices of its own to share")
        if resources.ranks > owner.ranks:
            raise ValueError(
                f"{name}.resources.ranks ({resources.ranks}) is larger than the ranks of "
                f"{resources.share}, which it shares devices with ({owner.ranks})"
            )


def engines_have_their_gpus(config: PPOConfig) -> None:
    """An engine that sleeps, or is spread over GPUs, reserves GPUs."""
    gpus, wanted = config.rollout.resources.gpus, config.rollout.tensor_parallel
    if config.rollout.sleep and not gpus:
        raise ValueError("rollout.sleep: needs rollout.resources.gpus")
    if gpus and wanted > 1 and gpus != wanted:
        raise ValueError(f"rollout.tensor_parallel {wanted}: needs rollout.resources.gpus: {wanted} (got {gpus:g})")


def offload_has_a_turn(config: PPOConfig) -> None:
    """Learners make room only for engines that sleep on their GPUs; elsewhere the key would do nothing."""
    for name in config.roles().keys() & {"policy", "critic"}:
        shared = config.place_of(name) == config.place_of("rollout")
        if getattr(config, name).zero.offload_during_rollout and not (shared and config.rollout.sleep):
            raise ValueError(
                f"{name}.zero.offload_during_rollout: needs rollout.sleep, and {name} and rollout on the same devices"
            )


def sync_fits_placement(config: PPOConfig) -> None:
    """Each way of weights needs the policy and the engines where it can reach them."""
    kind = config.rollout.weight_sync.kind
    for name in ("rollout", "policy"):
        if kind != "object_store" and not config.roles()[name].gpus:
            raise ValueError(f"rollout.weight_sync.kind {kind}: needs {name}.resources.gpus")
    shared = config.place_of("rollout") == config.place_of("policy")
    if kind == "nccl":
        _nccl_fits(shared, _gpus_of_place(config, "rollout"))
    if kind == "cuda_ipc":
        _cuda_ipc_fits(config, shared, _gpus_of_place(config, "rollout"))


def gap_fits_precision(config: PPOConfig) -> None:
    """Rounding to bfloat16 must not look like a failed sync."""
    rounded = [name for name in ("policy", "rollout") if getattr(config, name).precision == "bfloat16"]
    gap = config.rollout.weight_sync.max_gap
    if rounded and gap < BFLOAT16_GAP:
        raise ValueError(
            f"rollout.weight_sync.max_gap: {gap:g} is too tight for {rounded[0]}.precision bfloat16, whose rounding "
            f"alone moves single log-probabilities by hundredths of a nat; start with 1.0, and tighten it by what "
            f"sync/logprob_gap_max shows"
        )


def _nccl_fits(shared: bool, gpus: float) -> None:
    if shared:
        raise ValueError(
            "rollout.weight_sync.kind nccl: refuses two processes on one GPU; use cuda_ipc, or give policy and rollout "
            "GPUs of their own"
        )
    if not float(gpus).is_integer():
        raise ValueError(f"rollout.weight_sync.kind nccl: needs whole GPUs for each engine, not {gpus:g}")


def _cuda_ipc_fits(config: PPOConfig, shared: bool, gpus: float) -> None:
    if not shared:
        raise ValueError("rollout.weight_sync.kind cuda_ipc: needs rollout.resources.share: policy")
    if gpus > 1:
        raise ValueError(
            f"rollout.weight_sync.kind cuda_ipc: the gpus of the roles that share a place add up to {gpus:g}, so the "
            f"policy and the engine would not be on one GPU; make them add up to 1"
        )
    if config.rollout.resources.ranks > config.policy.resources.ranks or config.rollout.tensor_parallel > 1:
        raise ValueError(
            "rollout.weight_sync.kind cuda_ipc: needs a rank of the policy on every GPU of every engine: "
            "rollout.resources.ranks not above policy.resources.ranks, and rollout.tensor_parallel 1"
        )


def _gpus_of_place(config: PPOConfig, role: str) -> float:
    """GPUs that a rank of the role and those that share its place reserve together."""
    place = config.place_of(role)
    return round(sum(r.gpus for name, r in config.roles().items() if config.place_of(name) == place), 4)


ANY_ROLES = (sharing_is_possible,)  # of a run that samples or trains alone, too
RULES = (sharing_is_possible, engines_have_their_gpus, offload_has_a_turn, sync_fits_placement, gap_fits_precision)
