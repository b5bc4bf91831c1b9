"""The GPU memory of an actor on the node's metrics port: what the panel "GPU memory of each actor" draws."""

from __future__ import annotations

import subprocess
import sys
import time
from urllib.request import urlopen

import pytest

from tests.monitoring.prometheus import queries

pytestmark = pytest.mark.gpu
GIB = 2**30
HOLD = f"import torch; held = torch.empty({GIB}, dtype=torch.uint8, device='cuda'); print('held', flush=True); input()"


def test_an_actor_tells_what_is_taken_of_its_device_by_it_and_by_its_children(ray_cluster) -> None:
    import ray

    from actors.pool import process_environment
    from actors.process import RoleProcess
    from rlhf.at_hand import Run, working_for
    from rlhf.roles import Resources

    class Holder(RoleProcess):
        role = "policy"

        def hold(self) -> None:
            import torch

            self.held = torch.empty(GIB, dtype=torch.uint8, device="cuda")
            self.child = subprocess.Popen(
                [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            assert self.child.stdout.readline() == "held\n"

        def let_go(self) -> None:
            self.child.communicate("\n")

    resources = Resources(cpus=0, gpus=0.1)
    with working_for(Run("demo/ppo", "ppo")):
        options = {"num_gpus": 0.1, "num_cpus": 0, "runtime_env": {"env_vars": process_environment(resources)}}
    actor = ray.remote(Holder).options(**options).remote(0, resources)
    ray.get(actor.at.remote(1, "hold"))
    port = ray.nodes()[0]["MetricsExportPort"]
    end, found = time.monotonic() + 60, 0.0
    while found < 2 * GIB and time.monotonic() < end:
        time.sleep(1)
        with urlopen(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        told = [line for line in lines if line.startswith("ray_rlhf_gpu_memory_bytes{") and 'run="demo/ppo"' in line]
        found = max((float(line.rpartition(" ")[2]) for line in told if 'actor="policy[0]"' in line), default=0.0)
    ray.get(actor.let_go.remote())
    ray.kill(actor)
    assert found >= 2 * GIB
    assert any("ray_rlhf_gpu_memory_bytes" in query.expression for query in queries())
