"""How the ranks of a role find each other."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from datetime import timedelta

from rlhf.device import collective_backend, has_gpu
from rlhf.errors import UnreachableError
from rlhf.training.operators import RANKS_ON_CPUS, load_operator

_REACHED_S = 60.0


@dataclass(frozen=True)
class Rank:
    """Where a process stands among the ranks of its role; `address` and `port` are those of their meeting place."""

    index: int
    count: int
    address: str
    port: int


class MeetingPlace:
    """Where ranks meet, served by this process while the object lives, at this address alone: who connects is asked
    for no token.

    The kernel chooses the port when it is bound: one that was only looked up may be another's by the time it is used.
    """

    def __init__(self, address: str) -> None:
        from torch.distributed import TCPStore

        with socket.create_server((address, 0), family=_family(address)) as bound:
            self.address, self.port = address, bound.getsockname()[1]
            descriptor = bound.detach()  # the store closes it; by itself it would listen on all interfaces
        self._store = TCPStore(
            address, self.port, is_master=True, wait_for_workers=False, master_listen_fd=descriptor
        )


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def join_ranks(rank: Rank) -> None:
    """Join the collective of the role at its meeting place: NCCL between GPUs, gloo between CPUs.

    Raises UnreachableError when nobody serves there: the collective itself would wait for days.
    """
    _require_served(rank)
    os.environ.update(
        RANK=str(rank.index), WORLD_SIZE=str(rank.count), LOCAL_RANK="0",
        MASTER_ADDR=rank.address, MASTER_PORT=str(rank.port),
        TORCHELASTIC_USE_AGENT_STORE="True",  # somebody serves there already: rank 0 must not try to
    )
    if not has_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        load_operator(RANKS_ON_CPUS)
    import deepspeed

    # The run's own deadline finds a rank that hangs, and names it; the collective's would name the ranks that wait.
    deepspeed.init_distributed(collective_backend(), verbose=False, timeout=timedelta(days=7))


def _require_served(rank: Rank) -> None:
    try:
        socket.create_connection((rank.address, rank.port), timeout=_REACHED_S).close()
    except OSError as error:
        raise UnreachableError(
            f"rank {rank.index} of {rank.count} cannot reach the ranks' meeting place {rank.address}:{rank.port} "
            f"({error}); let the nodes of the cluster reach each other's ports"
        ) from None
