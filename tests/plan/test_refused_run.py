"""A run itself refuses what cannot fit, before an actor or a worker is started or a file is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.config import validate
from rlhf.context import RunContext
from rlhf.errors import ResourceError
from rlhf.ppo.config import PPOConfig
from rlhf.progress import LineProgress

WIDE = {"hidden_size": 16_384, "num_hidden_layers": 120, "intermediate_size": 53_248, "num_attention_heads": 128,
        "num_key_value_heads": 8, "layer_types": ["full_attention"] * 120}


def enlarged(source: Path, target: Path) -> Path:
    """A directory with the tokenizer of a tiny model, the sizes of one with 400 billion parameters, and no weights."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.safetensors"))
    content = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**content, **WIDE}))
    return target


def config_of(models: Any, root: Path) -> PPOConfig:
    """Every role on such models, with CPUs enough in the cluster of the tests."""
    share = {"resources": {"cpus": 0.2}}
    model = {"model": str(enlarged(models.tied, root / "policy")), **share}
    reward = {"model": str(enlarged(models.reward, root / "reward")), **share}
    return validate(PPOConfig, {
        "output": str(root / "ppo"), "prompts": str(models.prompts), "policy": model, "critic": reward,
        "reference": model, "reward": reward, "rollout": {"prompts_per_step": 8, "max_new_tokens": 16, **share},
    })


def test_such_a_config_passes_every_check_before_memory(tiny_models: Any, tmp_path: Path) -> None:
    """What is refused below is refused for its memory, not for its inputs."""
    from actors.placement import bundles, check_fits
    from actors.preparation import prepare
    from rlhf.plan.hardware import GIB, Cluster
    from rlhf.plan.refusal import check_memory

    config = config_of(tiny_models, tmp_path)
    prepare(config)
    check_fits(bundles(config.roles()), [{"CPU": 4.0}])
    with pytest.raises(ResourceError, match=r"of the processes on CPUs take \d+\.\d GiB, and the machine has 512"):
        check_memory("ppo", config, Cluster(1, 0, None, 512 * GIB))


def test_no_actor_starts_for_a_run_that_cannot_fit(ray_cluster: str, tiny_models: Any, tmp_path: Path) -> None:
    import ray

    from actors.ppo_job import run

    config = config_of(tiny_models, tmp_path)
    before = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)}
    with pytest.raises(ResourceError, match=r"states of the processes on CPUs take \d+\.\d GiB, and the machine has"):
        run(config, RunContext("ppo", config.output, "hash", {}, LineProgress()))
    assert {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)} == before
    assert not (tmp_path / "ppo.work").exists()


def training_config_of(stage: str, models: Any, root: Path) -> Any:
    """A training stage on such a model, on two workers, with records of every kind."""
    turns = [{"role": "user", "content": "1 2"}, {"role": "assistant", "content": "1 2"}]
    record = {"text": "1 2 3", "messages": turns, "prompt": "1 2", "chosen": "1", "rejected": "2", "lang": "en"}
    columns = {"pretrain": ("text",), "sft": ("messages",), "reward": ("prompt", "chosen", "rejected")}[stage]
    records = root / "records.jsonl"
    records.write_text(json.dumps({key: record[key] for key in (*columns, "lang")}) + "\n")
    model = str(enlarged(models.tied, root / "model"))
    continued = {"model": {"kind": "existing", "path": model}, "tokenizer": model, "block_length": 4}
    named = continued if stage == "pretrain" else {"model": model, "max_length": 32}
    files = {"output": str(root / stage), "train": [str(records)], "validation": [str(records)]}
    return validate(load_object(STAGES[stage].config), {**files, **named})


@pytest.mark.parametrize("stage", ["pretrain", "sft", "reward"])
def test_no_worker_starts_for_a_training_job_that_cannot_fit(
    stage: str, ray_cluster: str, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr("rlhf.training.ray_train.train", lambda *given: started.append(given))
    config = training_config_of(stage, tiny_models, tmp_path)
    with pytest.raises(ResourceError, match=r"processes on CPUs take \d+\.\d GiB, and the machine has") as refusal:
        load_object(STAGES[stage].run)(config, RunContext(stage, config.output, "hash", {}, LineProgress()))
    assert str(refusal.value).endswith("a smaller model, or nodes with more memory (rlhf plan says more)")
    assert not started and not (tmp_path / f"{stage}.work").exists()
