"""Manifests from configs: every shipped config becomes valid ones, and they say what the config says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rlhf.cli import command_line
from rlhf.cluster.documents import parse_documents
from rlhf.cluster.names import quantity
from rlhf.cluster.validate import check_documents
from tests.cluster.manifests import IMAGE, IN_VOLUME, ROOT, SHIPPED

PPO = ("configs/ppo.yaml", *IN_VOLUME)


def _inputs(method: str) -> list[str]:
    """ppo.yaml and what it reads, without the critic's model where a method has no critic."""
    alone = "critic: null" in (ROOT / method).read_text(encoding="utf-8")
    return [word for word in PPO if not (alone and word.startswith("critic."))]


CPUS_OF_A_NODE = 90  # machines with eight H100 have 96 and more, of which the kubelet and daemons want some
GPU = sorted((ROOT / "configs" / "gpu").glob("*.yaml"))
METHODS = sorted(str(file.relative_to(ROOT)) for file in (ROOT / "configs" / "methods").glob("*.yaml"))
STAGES = {
    "pretrain": ("tokenizer=/runs/t", "train=[/runs/a.jsonl]", "validation=[/runs/b.jsonl]"),
    "sft": ("model=/runs/m", "train=[/runs/a.jsonl]", "validation=[/runs/b.jsonl]"),
    "reward": ("model=/runs/m", "train=[/runs/a.jsonl]", "validation=[/runs/b.jsonl]"),
    "pairs": ("model=/runs/m", "prompts=/runs/p.jsonl"),
    "evaluate": (
        "models.sft=/runs/m", "models.ppo=/runs/p", "reward=/runs/r", "prompts=/runs/p.jsonl", "texts=[/runs/t.jsonl]"
    ),
}
CONFIGS: dict[str, tuple[str, ...]] = {
    "pipeline": ("configs/pipeline.yaml",),
    "demo_real": ("configs/demo_real.yaml", "sources.real=/runs/real"),
    "calculator": ("configs/pipeline.yaml", "configs/calculator.yaml"),
    **{f"ppo {Path(file).stem}": (*_inputs(file), file) for file in METHODS},
    **{f"ppo {name}": (*PPO, f"configs/profiles/{name}.yaml") for name in ("cpu", "one_gpu", "eight_gpu")},
    **{name: (f"configs/{name}.yaml", *words) for name, words in STAGES.items()},
}


def rendered(*words: str) -> str:
    done = CliRunner().invoke(command_line(), ["cluster", "render", *words, "--image", IMAGE], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def objects(text: str) -> dict[str, dict[str, Any]]:
    """Kind → object; anchors become what they stand for."""
    return {each["kind"]: each for each in yaml.safe_load_all(text)}


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
@pytest.mark.parametrize("name", CONFIGS)
def test_every_shipped_config_becomes_a_valid_manifest(name: str, kind: str) -> None:
    """Twice the same, and nothing is to be said about it."""
    text = rendered(*CONFIGS[name], "--kind", kind)
    checked = check_documents(parse_documents(text, "x.yaml"), "x.yaml")
    assert (checked.faults, checked.advice, checked.unknown) == ([], [], [])
    assert text == rendered(*CONFIGS[name], "--kind", kind)
    assert all(len(line) <= 120 for line in text.splitlines() if "config.yaml" not in line)


def test_the_run_in_the_manifest_is_the_run_of_the_config() -> None:
    """What the pods read validates to the config that was given, and the command is one simple command."""
    found = objects(rendered("configs/pipeline.yaml", "seed=7", "--name", "demo-7"))
    config = yaml.safe_load(found["ConfigMap"]["data"]["config.yaml"])
    given = yaml.safe_load((ROOT / "configs" / "pipeline.yaml").read_text(encoding="utf-8"))
    del given["run_dir"]
    assert config == {**given, "seed": 7}
    entrypoint = found["RayJob"]["spec"]["entrypoint"]
    assert entrypoint == "rlhf run /config/config.yaml run_dir=/runs/demo-7"
    head = found["RayJob"]["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounts == {"runs": "/runs", "config": "/config", "shared": "/dev/shm"}
    assert {"name": "config", "configMap": {"name": "demo-7-config"}} in head["volumes"]


def test_a_stage_that_is_named_counts_before_what_the_config_tells(tmp_path: Path) -> None:
    """Without it a config that is called otherwise does not tell; the entrypoint names the stage."""
    file = tmp_path / "mine.yaml"
    file.write_text((ROOT / "configs" / "reward.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    for words in ((str(file), "--stage", "reward"), ("configs/reward.yaml",)):
        entrypoint = objects(rendered(*words, *STAGES["reward"]))["RayJob"]["spec"]["entrypoint"]
        assert entrypoint == "rlhf reward /config/config.yaml output=/runs/rlhf/reward"


def test_an_output_of_the_config_that_lies_in_the_volume_is_kept() -> None:
    found = objects(rendered(*PPO, "output=/runs/mine/ppo"))
    assert found["RayJob"]["spec"]["entrypoint"] == "rlhf ppo /config/config.yaml output=/runs/mine/ppo"
    assert "output" not in yaml.safe_load(found["ConfigMap"]["data"]["config.yaml"])


def test_the_pods_of_a_gpu_run() -> None:
    """Sizes, limits, shared memory, versions, grace and security of the profile with eight GPUs."""
    words = (*PPO, "configs/profiles/eight_gpu.yaml", "--grace", "120", "--retries", "5")
    job = objects(rendered(*words))["RayJob"]["spec"]
    cluster = job["rayClusterSpec"]
    head, group = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    worker = group["template"]["spec"]
    container = worker["containers"][0]
    assert job["backoffLimit"] == 5
    assert head["rayStartParams"] == {"num-cpus": "0", "object-store-memory": str(8 * 2**30)}
    assert (group["replicas"], group["minReplicas"], group["maxReplicas"]) == (1, 1, 1)
    bounds = {"cpu": "37", "memory": "685Gi", "nvidia.com/gpu": "8"}
    assert container["resources"] == {"requests": bounds, "limits": bounds}
    assert "nvidia.com/gpu" not in head["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert {"name": "shared", "emptyDir": {"medium": "Memory", "sizeLimit": "25Gi"}} in worker["volumes"]
    assert worker["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert cluster["authOptions"] == {"mode": "token"} and cluster["rayVersion"] == "2.60.0"
    for pod in (head["template"]["spec"], worker):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["containers"][0]["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["terminationGracePeriodSeconds"] == 180
    drain = head["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert drain == ["rlhf", "cluster", "drain", "--wait", "120"]
    assert {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "120"} in head["template"]["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("kind", ["rayjob", "raycluster"])
@pytest.mark.parametrize("file", GPU, ids=lambda file: file.stem)
def test_a_config_for_gpus_asks_for_the_nodes_that_it_was_planned_for(file: Path, kind: str) -> None:
    """Nothing but the volume's place is to be said; `Planned for: 4x8xH100-80` is four workers with eight GPUs each."""
    text = rendered(str(file.relative_to(ROOT)), "--mount", "/shared", "--kind", kind)
    checked = check_documents(parse_documents(text, "x.yaml"), "x.yaml")
    assert (checked.faults, checked.advice, checked.unknown) == ([], [], [])
    planned = re.search(r"Planned for: (\d+)x(\d+)x", file.read_text(encoding="utf-8"))
    assert planned is not None
    found = objects(text)
    cluster = found["RayCluster"]["spec"] if kind == "raycluster" else found["RayJob"]["spec"]["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["replicas"], limits["nvidia.com/gpu"]) == (int(planned[1]), planned[2])
    assert int(limits["cpu"]) <= CPUS_OF_A_NODE
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]


@pytest.mark.parametrize(("gpus", "nodes"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_smaller_nodes_are_more_nodes(gpus: int, nodes: int) -> None:
    job = objects(rendered(*PPO, "configs/profiles/eight_gpu.yaml", "--gpus-per-node", str(gpus)))["RayJob"]
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert (group["replicas"], limits["nvidia.com/gpu"]) == (nodes, str(gpus))


def test_a_queue_of_kueue_asks_for_another_way_of_deletion() -> None:
    with_queue, without = (objects(rendered(*PPO, *more))["RayJob"] for more in (("--queue", "rlhf"), ()))
    assert with_queue["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "rlhf"
    assert with_queue["spec"]["shutdownAfterJobFinishes"] is True and "deletionStrategy" not in with_queue["spec"]
    assert "kueue.x-k8s.io/queue-name" not in without["metadata"]["labels"]
    after = {
        (rule["condition"].get("jobStatus", "-"), rule["policy"]): rule["condition"]["ttlSeconds"]
        for rule in without["spec"]["deletionStrategy"]["deletionRules"]
    }
    assert after["SUCCEEDED", "DeleteCluster"] < after["FAILED", "DeleteWorkers"] < after["FAILED", "DeleteCluster"]


def test_the_shipped_queue_has_room_for_the_shipped_job() -> None:
    """Each kind of pod fits into one flavor, and all together into the quota; the queue is the one that is named."""
    job = objects((SHIPPED / "rayjob-kueue.yaml").read_text(encoding="utf-8"))["RayJob"]
    queue = objects((SHIPPED / "kueue.yaml").read_text(encoding="utf-8"))
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == queue["LocalQueue"]["metadata"]["name"]
    assert job["metadata"]["namespace"] == queue["LocalQueue"]["metadata"]["namespace"]
    left = [
        {each["name"]: quantity(each["nominalQuota"]) for each in flavor["resources"]}
        for flavor in queue["ClusterQueue"]["spec"]["resourceGroups"][0]["flavors"]
    ]
    cluster = job["spec"]["rayClusterSpec"]
    pods = [(group["template"], group["replicas"]) for group in cluster["workerGroupSpecs"]]
    pods += [(job["spec"]["submitterPodTemplate"], 1), (cluster["headGroupSpec"]["template"], 1)]
    for template, count in pods:
        asked = {k: count * quantity(v) for k, v in template["spec"]["containers"][0]["resources"]["requests"].items()}
        flavor = next(each for each in left if all(each[name] >= amount for name, amount in asked.items()))
        flavor.update({name: flavor[name] - amount for name, amount in asked.items()})
    assert left[1]["nvidia.com/gpu"] == 8  # of 16, so that two such runs fit at a time


def test_secrets_are_named_and_never_written() -> None:
    text = rendered(*PPO, "--secret", "hub")
    job = objects(text)["RayJob"]["spec"]["rayClusterSpec"]
    for group in (job["headGroupSpec"], *job["workerGroupSpecs"]):
        assert group["template"]["spec"]["containers"][0]["envFrom"] == [{"secretRef": {"name": "hub"}}]
    assert "envFrom" not in rendered(*PPO)


def test_only_the_namespace_the_operator_and_prometheus_come_in() -> None:
    policy = objects(rendered(*PPO))["NetworkPolicy"]["spec"]
    inside, operator, prometheus = policy["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert [port["port"] for port in operator["ports"]] == [8265] and [p["port"] for p in prometheus["ports"]] == [8080]
    blocks = [peer["ipBlock"] for rule in policy["egress"] for peer in rule["to"] if "ipBlock" in peer]
    assert "169.254.169.254/32" in blocks[0]["except"]
    assert policy["podSelector"]["matchLabels"] == {"app.kubernetes.io/instance": "rlhf"}


def test_a_service_serves_what_the_run_publishes() -> None:
    """The engine of the run's rollouts, in the volume that is only read, in the form that Ray Serve itself takes."""
    service = objects(rendered(*PPO, "configs/profiles/eight_gpu.yaml", "--kind", "rayservice", "--name", "chat"))
    spec = service["RayService"]["spec"]
    (application,) = yaml.safe_load(spec["serveConfigV2"])["applications"]
    assert application["import_path"] == "ray.serve.llm:build_openai_app"
    (model,) = application["args"]["llm_configs"]
    assert model["model_loading_config"] == {"model_id": "chat", "model_source": "/runs/chat/ppo"}
    assert model["engine_kwargs"] == {"dtype": "bfloat16", "tensor_parallel_size": 1}
    assert model["placement_group_config"] == {"bundle_per_worker": {"CPU": 4, "GPU": 1}}
    group = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    assert {"name": "runs", "mountPath": "/runs", "readOnly": True} in group["containers"][0]["volumeMounts"]
    assert group["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
    pipeline = objects(rendered("configs/pipeline.yaml", "--kind", "rayservice"))["RayService"]["spec"]
    assert "model_source: /runs/rlhf/ppo" in pipeline["serveConfigV2"] and "GPU" not in pipeline["serveConfigV2"]


@pytest.mark.parametrize("file", ["rayjob.yaml", "rayjob-kueue.yaml", "raycluster.yaml", "rayservice.yaml"])
def test_a_shipped_manifest_is_what_its_own_first_lines_render(file: str) -> None:
    """They name the command; where this fails, run it again with --out."""
    text = (SHIPPED / file).read_text(encoding="utf-8")
    lines = text.split(" by\n")[1].split("# Render it again")[0].splitlines()
    words = shlex.split(" ".join(line.removeprefix("#").strip().removesuffix("\\") for line in lines))
    assert words[:3] == ["rlhf", "cluster", "render"]
    done = CliRunner().invoke(command_line(), words[1:], catch_exceptions=False)
    assert done.stdout == text, f"run {shlex.join(words)} --out cluster/{file}"
