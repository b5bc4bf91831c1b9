"""A run's numbers on the metrics port of a node without a dashboard; the port forgets a run that is over."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.limits import wait_until

pytestmark = pytest.mark.slow
TAGS = ("run", "stage", "phase", "actor", "kind")


def told() -> dict[str, float]:
    """`name[tags]` → value of every metric of ours on this node's port."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    port = ray.nodes()[0]["MetricsExportPort"]
    with urlopen(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("ray_rlhf_")]
    tags = [[sample.labels[key] for key in TAGS if key in sample.labels] for sample in samples]
    return {f"{sample.name}{tag}": sample.value for sample, tag in zip(samples, tags, strict=True)}


def test_the_numbers_of_a_run_stay_while_it_runs_and_go_when_it_is_over(ray_cluster, tmp_path: Path) -> None:
    from actors.telemetry import RayMetrics

    metrics = RayMetrics(tmp_path / "demo" / "ppo", "ppo")
    metrics.begin(3, 80, 1)
    metrics.enter("rollout")
    metrics.enter("update")
    numbers = {"reward/score": 0.5, "reward/gold": float("nan"), "time/update": 2.5, "unknown/number": 1.0}
    metrics.write(4, numbers)
    run = "['demo/ppo', 'ppo'"
    wanted = {
        f"ray_rlhf_step{run}]": 4.0, f"ray_rlhf_steps{run}]": 80.0, f"ray_rlhf_restarts{run}]": 1.0,
        f"ray_rlhf_reward{run}]": 0.5, f"ray_rlhf_phase_seconds{run}, 'update']": 2.5,
        f"ray_rlhf_phase{run}, 'rollout']": 0.0, f"ray_rlhf_phase{run}, 'update']": 1.0,
    }
    wait_until(lambda: wanted.items() <= told().items())
    time.sleep(25)  # Ray forgets what was not said again for 20 s
    found = told()
    assert wanted.items() <= found.items()
    assert not [name for name in found if "gold" in name or "unknown" in name]
    metrics.close()
    wait_until(lambda: not [name for name in told() if "demo/ppo" in name])


def test_a_process_that_has_a_gpu_tells_its_memory(ray_cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """From what torch would say of a device to the port; tests/gpu/test_memory_metric.py has a device."""
    from actors.telemetry import DeviceMemory
    from rlhf import device

    monkeypatch.setattr(device, "has_gpu", lambda: True)
    monkeypatch.setattr(device, "memory_bytes", lambda: {"allocated": 5, "reserved": 9})
    memory = DeviceMemory(lambda: "policy[0]")
    wanted = {f"ray_rlhf_gpu_memory_bytes['policy[0]', '{kind}']": value
              for kind, value in (("allocated", 5.0), ("reserved", 9.0))}
    wait_until(lambda: wanted.items() <= told().items())
    memory._repeated.close()


def test_a_process_without_a_gpu_tells_none(ray_cluster) -> None:
    from actors.telemetry import DeviceMemory

    assert DeviceMemory(lambda: "policy[0]")._repeated is None
