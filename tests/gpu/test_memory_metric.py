"""The GPU memory of an actor on the node's metrics port: what the panel "GPU memory of each process" draws."""

from __future__ import annotations

import time
from urllib.request import urlopen

import pytest

from tests.monitoring.prometheus import queries

pytestmark = pytest.mark.gpu
GIB = 2**30


def test_an_actor_tells_the_memory_that_it_holds(ray_cluster) -> None:
    import ray

    from actors.process import RoleProcess
    from rlhf.roles import Resources

    class Holder(RoleProcess):
        role = "policy"

        def hold(self, size: int) -> None:
            import torch

            self.held = torch.empty(size, dtype=torch.uint8, device="cuda")

    actor = ray.remote(Holder).options(num_gpus=0.1, num_cpus=0).remote(0, Resources(cpus=0))
    ray.get(actor.at.remote(1, "hold", GIB))
    port = ray.nodes()[0]["MetricsExportPort"]
    end, found = time.monotonic() + 60, 0.0
    while found < GIB and time.monotonic() < end:
        time.sleep(1)
        with urlopen(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        told = [line for line in lines if line.startswith("ray_rlhf_gpu_memory_bytes{") and 'kind="allocated"' in line]
        found = max((float(line.rpartition(" ")[2]) for line in told if 'actor="policy[0]"' in line), default=0.0)
    ray.kill(actor)
    assert found >= GIB
    assert any("ray_rlhf_gpu_memory_bytes" in query.expression for query in queries())
