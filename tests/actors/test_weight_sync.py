"""The ways of new weights, between small Ray actors that stand for policy ranks and engines.

The actors meet through a TCP store as the real ones meet through NCCL: each end of a transfer waits for the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
import ray
import torch

from actors.ipc_sync import EngineClient
from actors.pool import Pool
from actors.residency import SharedDevices, SyncOnSharedDevices
from actors.title import Titled
from actors.weight_sync import SYNCS, weight_sync
from rlhf.ppo.config import WeightSyncConfig
from rlhf.sampling.weight_transfer import TransferGroup, WeightInfo
from tests.limits import HANG_S
from tests.ports import free_port

WEIGHTS = [("model.embed_tokens.weight", torch.arange(6.0).reshape(2, 3)), ("lm_head.weight", torch.ones(2, 3))]
NAMES = [name for name, _ in WEIGHTS]
WAIT = timedelta(seconds=HANG_S)


def store(group: TransferGroup, server: bool) -> torch.distributed.TCPStore:
    return torch.distributed.TCPStore(
        group.address, group.port, is_master=server, timeout=WAIT, wait_for_workers=False
    )


class Noting(Titled):
    """Notes what it is told to do, and fails where it is told to."""

    def __init__(self, rank: int) -> None:
        self.rank, self.notes, self.broken = rank, [], False

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self.broken:
            raise ValueError(f"{type(self).__name__} fell over")

    def fall_over(self, broken: bool) -> None:
        self.broken = broken

    def take_notes(self) -> list[str]:
        taken, self.notes = self.notes, []
        return taken


class FakePolicy(Noting):
    """A rank that sends `WEIGHTS`, and waits until every worker has them."""

    def address(self) -> tuple[str, int]:
        return "127.0.0.1", free_port()

    def weight_infos(self) -> list[WeightInfo]:
        return [WeightInfo(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in WEIGHTS]

    def weights(self) -> tuple[list | None, None]:
        self.note("weights")
        return WEIGHTS if self.rank == 0 else None, None

    def join_nccl(self, group: TransferGroup) -> None:
        self.group, self.engines = group, None
        if self.rank == 0:
            self.store = store(group, server=True)
            self.store.wait([f"joined {rank}" for rank in range(1, group.size)])

    def join_ipc(self, engines: EngineClient, bucket_bytes: int) -> None:
        self.engines = engines
        if self.rank == 0:
            engines.init_weight_transfer_engine({"packed": True})

    def send_weights(self, version: int) -> None:
        self.note("send_weights")
        if self.rank == 0 and self.engines is None:
            self.store.set(f"weights {version}", b"sent")
            self.store.wait([f"got {version} {rank}" for rank in range(1, self.group.size)])
        elif self.rank == 0:
            self.engines.version = version
            self.engines.start_weight_update()
            for name in NAMES:
                self.engines.update_weights({"names": [name]})
            self.engines.finish_weight_update()

    def release_unused_memory(self) -> None:
        self.note("release_unused_memory")

    def leave_device(self) -> None:
        self.note("leave_device")

    def return_to_device(self) -> None:
        self.note("return_to_device")


class FakeEngine(Noting):
    """An engine of rank + 1 workers, which receive when the policy sends."""

    version, received = -1, ()

    def workers(self) -> int:
        return self.rank + 1

    def join_nccl(self, group: TransferGroup) -> None:
        told = group.engine_info(self.rank)
        self.ranks = [told["rank_offset"] + worker for worker in range(self.workers())]
        self.store = store(group, server=False)
        for rank in self.ranks:
            self.store.set(f"joined {rank}", b"")

    def receive_weights(self, update: dict, version: int) -> None:
        self.note("receive_weights")
        self.store.wait([f"weights {version}"])
        for rank in self.ranks:
            self.store.set(f"got {version} {rank}", b"")
        self.received, self.version = update["names"], version

    def load_weights(self, weights: list, version: int) -> None:
        self.received, self.version = [name for name, _ in weights], version

    def init_weight_transfer(self, info: dict) -> None:
        self.note(f"init {info}")

    def start_weight_update(self) -> None:
        self.note("start")
        self.received = []

    def update_weights(self, update: dict) -> None:
        self.note("update")
        self.received = [*self.received, *update["names"]]

    def finish_weight_update(self, version: int) -> None:
        self.note("finish")
        self.version = version

    def wake(self, part: str) -> None:
        self.note(f"wake {part}")

    def sleep(self) -> None:
        self.note("sleep")

    def held(self) -> tuple[int, list[str]]:
        return self.version, list(self.received)


@dataclass(frozen=True)
class Pools:
    policy: Pool
    rollout: Pool

    def notes(self, pool: Pool) -> list[list[str]]:
        return ray.get(pool.call("take_notes"))


@pytest.fixture(scope="module")
def actors(ray_cluster: str) -> Iterator[Pools]:
    """Two policy ranks; two engines, the second with two workers."""
    start = {"policy": FakePolicy, "rollout": FakeEngine}
    pools = [
        Pool(role, [ray.remote(kind).options(num_cpus=0).remote(rank) for rank in range(2)])
        for role, kind in start.items()
    ]
    yield Pools(*pools)
    for pool in pools:
        pool.stop()


@pytest.fixture
def pools(actors: Pools) -> Pools:
    """The actors with nothing noted and nothing broken."""
    for pool in (actors.policy, actors.rollout):
        pool.call_all("fall_over", False).get()
        actors.notes(pool)
    return actors


def test_every_kind_of_the_config_has_a_way() -> None:
    assert set(SYNCS) == set(WeightSyncConfig.model_fields["kind"].annotation.__args__)


@pytest.mark.parametrize("kind", list(SYNCS))
def test_all_engines_hold_all_weights_under_the_new_version(pools: Pools, kind: str) -> None:
    """With nccl, joining returns only when every rank of the group, 1 to 3, has come."""
    sync = weight_sync(kind, pools.policy, pools.rollout)
    for version in (0, 1):
        sync.publish(version).get()
        assert ray.get(pools.rollout.call("held")) == [(version, NAMES)] * 2


def test_cuda_ipc_starts_and_finishes_once_round_all_buckets(pools: Pools) -> None:
    weight_sync("cuda_ipc", pools.policy, pools.rollout).publish(3).get()
    assert pools.notes(pools.rollout) == [["init {'packed': True}", "start", "update", "update", "finish"]] * 2


def test_engines_and_the_others_take_turns_on_shared_devices(pools: Pools) -> None:
    devices = SharedDevices(pools.rollout, [pools.policy])
    sync = SyncOnSharedDevices(weight_sync("cuda_ipc", pools.policy, pools.rollout), devices)
    sync.publish(1).get()
    assert pools.notes(pools.policy) == [["release_unused_memory", "send_weights"]] * 2
    pools.notes(pools.rollout)
    with devices.for_rollout():
        assert pools.notes(pools.policy) == [["leave_device"]] * 2
        assert pools.notes(pools.rollout) == [["wake kv_cache"]] * 2
    assert pools.notes(pools.rollout) == [["sleep"]] * 2
    assert pools.notes(pools.policy) == [["return_to_device"]] * 2


def test_a_failure_of_a_rank_that_only_helps_to_gather_is_raised(pools: Pools) -> None:
    sync = weight_sync("object_store", pools.policy, pools.rollout)
    ray.get(pools.policy.actors[1].fall_over.remote(True))
    with pytest.raises(ValueError, match="FakePolicy fell over"):
        sync.publish(0).get()


def test_a_failure_of_an_engine_is_raised_while_the_sender_waits_for_it(pools: Pools) -> None:
    """The last test: the sender is left waiting, as in a broadcast that nobody receives."""
    sync = weight_sync("nccl", pools.policy, pools.rollout)
    ray.get(pools.rollout.actors[0].fall_over.remote(True))
    with pytest.raises(ValueError, match="FakeEngine fell over"):
        sync.publish(0).get()
