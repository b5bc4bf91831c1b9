"""What every role's process does at its start, and how it shows itself."""

from __future__ import annotations

import logging
import os
import socket
import warnings

import ray

from actors.device_memory import tell_device_memory
from actors.title import Titled
from rlhf import device
from rlhf.ppo.config import Resources


class RoleProcess(Titled):
    """Base of the hosts: a named process with its share of threads. Its repr is the dashboard's and log's name."""

    role = "role"

    def __init__(self, rank: int, resources: Resources) -> None:
        import torch

        self.rank = rank
        self.memory = tell_device_memory(self.__repr__)
        torch.set_num_threads(resources.torch_threads)
        warnings.filterwarnings("ignore", category=FutureWarning)
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

    def __repr__(self) -> str:
        return f"{self.role}[{self.rank}]"

    def address(self) -> tuple[str, int]:
        """This node's address and a free port, for a rendezvous at this rank."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def meeting_place(self) -> tuple[str, int]:
        """Address and port where this rank from now on lets the others of its role meet."""
        from rlhf.training.ranks import MeetingPlace

        self.meeting = MeetingPlace(ray.util.get_node_ip_address())
        return self.meeting.address, self.meeting.port

    def place(self) -> tuple[int, str]:
        """This process's number, and Ray's id of its node."""
        return os.getpid(), ray.get_runtime_context().get_node_id()

    def ready(self) -> None:
        """Returns once the constructor has."""

    def release_unused_memory(self) -> None:
        """Give the device back what is cached but not in use."""
        device.release_unused_memory()

    def leave_device(self) -> None:
        """Give the device back as much as the role can do without while the engines sample."""
        device.release_unused_memory()

    def return_to_device(self) -> None:
        """Take back what `leave_device` gave."""
