"""The shipped configs for GPUs: valid, complete, runnable as far as shows without the models, and planned to fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.cluster.needs import needs
from rlhf.cluster.packing import nodes_for
from rlhf.commands.plan import TRAINED
from rlhf.commands.stages import stage_of
from rlhf.config import load
from rlhf.pipeline import is_hub_name
from rlhf.plan.hardware import Cluster, parse_cluster
from rlhf.plan.plans import plan_stage
from rlhf.plan.remedies import remedy
from rlhf.plan.sizes import Sizes
from rlhf.stage import inputs

DIRECTORY = Path(__file__).resolve().parents[2] / "configs" / "gpu"
FILES = sorted(DIRECTORY.glob("*.yaml"))


def stage_and_config(path: Path) -> tuple[str, Any]:
    stage = path.stem.split("_")[0].replace("grpo", "ppo")
    return stage, load(load_object(STAGES[stage].config), [path])


def planned_for(path: Path) -> Cluster:
    """The cluster that the file's own comment names."""
    found = re.search(r"Planned for: (\d+x\d+x[\w-]+)", path.read_text())
    assert found, f"{path.name} does not say what it is planned for"
    return parse_cluster(found[1])


def test_what_people_need_is_there() -> None:
    names = {path.stem for path in FILES}
    ppo = {"ppo_qwen2_0.5b_1gpu", "ppo_llama3_8b_8gpu_shared", "ppo_llama3_8b_8gpu_separate", "ppo_qwen2_32b_4nodes",
           "ppo_llama3_70b_16nodes"}
    assert ppo <= names
    assert len({name for name in names if name.startswith("grpo_")}) >= 2
    for kind in ("sft", "reward"):
        assert len({name for name in names if name.startswith(f"{kind}_")}) == 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_fits_the_cluster_that_it_names(path: Path) -> None:
    stage, config = stage_and_config(path)
    plan = plan_stage(stage, config, planned_for(path), Sizes())
    assert plan is not None
    assert plan.fit.problems == ()
    assert plan.fit.warnings == ()
    assert plan.iteration is not None and plan.iteration.total("limit") < plan.iteration.total("expected")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_uses_the_whole_cluster_and_no_more(path: Path) -> None:
    stage, config = stage_and_config(path)
    cluster = planned_for(path)
    (need,) = needs([(stage, config)])
    nodes = nodes_for([need], cluster.gpus_per_node)
    assert (nodes.count, need.total("GPU")) == (cluster.nodes, pytest.approx(cluster.gpus))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_its_models_are_hub_names_or_what_another_config_makes(path: Path) -> None:
    """And everything is on storage that all nodes see."""
    made = {str(stage_and_config(other)[1].output) for other in FILES}
    _, config = stage_and_config(path)
    assert config.output.is_absolute()
    for item in inputs(config):
        if item.hub:
            assert is_hub_name(item.value) or item.value in made, f"{item.key}: {item.value}"
        else:
            assert item.value.startswith("/shared/data/")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_says_how_it_is_run_and_is_commented(path: Path) -> None:
    stage, _ = stage_and_config(path)
    text = path.read_text()
    assert f"`rlhf {stage} configs/gpu/{path.name}`" in text
    assert text.count("#") >= 10
    assert all(len(line) <= 130 for line in text.splitlines())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_planner_knows_which_stage_a_file_is_for(path: Path) -> None:
    from rlhf.config import read_yaml

    stage, _ = stage_and_config(path)
    assert stage_of(read_yaml(path), [str(path)], TRAINED, "") == stage


def test_a_reference_that_is_too_large_for_a_gpu_is_to_be_divided() -> None:
    _, config = stage_and_config(DIRECTORY / "ppo_llama3_70b_16nodes.yaml")
    whole = config.model_copy(update={"reference": config.reference.model_copy(update={"divided": False})})
    plan = plan_stage("ppo", whole, parse_cluster("16x8xH100-80"), Sizes())
    assert plan is not None
    assert [problem.split(" needs")[0] for problem in plan.fit.problems] == ["the GPU of reference"]
    assert remedy(whole, parse_cluster("16x8xH100-80"), Sizes()) == "reference.divided: true"
