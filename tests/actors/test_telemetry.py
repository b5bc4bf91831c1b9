"""A run's numbers on the metrics port of a node without a dashboard; the port forgets a run that is over."""

from __future__ import annotations

import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from rlhf.nvml import Nvml
from tests.faults.faults import build
from tests.limits import HANG_S, wait_until

pytestmark = pytest.mark.slow
TAGS = ("run", "stage", "phase", "actor", "device")
GIB = 2**30


def told() -> dict[str, float]:
    """`name[tags]` → value of every metric of ours on this node's port."""
    import ray
    from prometheus_client.parser import text_string_to_metric_families

    port = ray.nodes()[0]["MetricsExportPort"]
    with urlopen(f"http://{ray.util.get_node_ip_address()}:{port}/metrics", timeout=HANG_S) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    samples = [sample for family in families for sample in family.samples if sample.name.startswith("ray_rlhf_")]
    tags = [[sample.labels[key] for key in TAGS if key in sample.labels] for sample in samples]
    return {f"{sample.name}{tag}": sample.value for sample, tag in zip(samples, tags, strict=True)}


def test_the_numbers_of_a_run_stay_while_it_runs_and_go_when_it_is_over(ray_cluster, tmp_path: Path) -> None:
    from rlhf.at_hand import Run
    from rlhf.telemetry import RayMetrics

    metrics = RayMetrics(Run.of(tmp_path / "demo" / "ppo", "ppo"))
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
    wait_until(lambda: wanted.items() <= told().items())
    found = told()
    assert not [name for name in found if "gold" in name or "unknown" in name]
    metrics.close()
    wait_until(lambda: not [name for name in told() if "demo/ppo" in name])


def test_the_memory_of_a_device_is_asked_of_the_driver(tmp_path: Path) -> None:
    """Of the driver's library as it is declared; by number and by UUID, of all who use the device."""
    nvml = Nvml(str(build(tmp_path, Path(__file__).with_name("nvml.cpp"))))
    used = {device: nvml.used_bytes(device) for device in ("0", "1", "2", "4", "GPU-3", "GPU-5")}
    assert used == {"0": 10 * GIB, "1": 10 * GIB + 1, "2": None, "4": None, "GPU-3": 10 * GIB + 3, "GPU-5": None}


def test_a_machine_without_a_driver_has_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no_driver"):
        Nvml(str(tmp_path / "no_driver.so"))


def test_an_actor_tells_what_is_taken_of_each_of_its_devices(ray_cluster) -> None:
    """Not what torch has in the actor's own process: the workers of an engine over several GPUs are its children."""
    from actors.device_memory import DeviceMemory
    from rlhf.at_hand import Run

    taken = {"0": 5 * GIB, "1": 9 * GIB, "2": None}
    memory = DeviceMemory(Run("demo/ppo", "ppo"), lambda: "rollout[0]", list(taken), taken.__getitem__)
    name = "ray_rlhf_gpu_memory_bytes['demo/ppo', 'ppo', 'rollout[0]', "
    wait_until(lambda: {f"{name}'0']": 5.0 * GIB, f"{name}'1']": 9.0 * GIB}.items() <= told().items())
    assert f"{name}'2']" not in told()
    memory.close()


def test_the_actors_of_a_run_know_whose_they_are_and_tell_nothing_without_a_gpu(ray_cluster, tmp_path: Path) -> None:
    import ray

    from actors.pool import process_environment
    from actors.process import RoleProcess
    from rlhf.at_hand import Run, working_for
    from rlhf.roles import Resources

    class Role(RoleProcess):
        def known(self) -> tuple[Run, bool]:
            return Run.of_this_process(), self.memory is None

    run = Run.of(tmp_path / "demo" / "ppo", "ppo")
    resources = Resources(cpus=0.1)
    with working_for(run):
        environment = {"env_vars": process_environment(resources)}
    actor = ray.remote(Role).options(num_cpus=0.1, runtime_env=environment).remote(0, resources)
    assert ray.get(actor.known.remote()) == (Run("demo/ppo", "ppo"), True)
    ray.kill(actor)
    assert process_environment(resources)["RLHF_RUN"] == ""
