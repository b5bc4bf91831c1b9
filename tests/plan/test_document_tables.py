"""The tables of docs/planning.md say what the code says now."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rlhf.config import load
from rlhf.plan.hardware import GIB, GPUS, parse_cluster
from rlhf.plan.memory import ON_GPU
from rlhf.plan.models import require
from rlhf.plan.places import USABLE
from rlhf.plan.plans import StagePlan, plan_ppo
from rlhf.plan.question import smallest, training
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig
from tests.plan import predicted, published, published_parts

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "planning.md").read_text(encoding="utf-8")
GPU_CONFIGS = ROOT / "configs" / "gpu"


def rows(first: str) -> list[list[str]]:
    """The cells of the one table whose head begins with these cells, without head and rule."""
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", DOCUMENT + "\n", re.MULTILINE)]
    (table,) = [lines for lines in tables if lines[0].startswith(f"| {first} |")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table[2:]]


def as_written(first: str) -> list[str]:
    """The rows of a table as lines."""
    return [f"| {' | '.join(row)} |" for row in rows(first)]


def planned(name: str, cluster: str, *overrides: str) -> StagePlan:
    config = load(PPOConfig, [GPU_CONFIGS / f"{name}.yaml"], overrides)
    return plan_ppo(config, parse_cluster(cluster), Sizes())


def expected(plan: StagePlan, kind: str = "expected") -> float:
    assert plan.iteration is not None
    return plan.iteration.total(kind)


@pytest.mark.parametrize("row", rows("config | cluster"), ids=lambda row: row[0])
def test_gpu_configs(row: list[str]) -> None:
    name, cluster, fullest, step = row
    assert f"Planned for: {cluster}" in (GPU_CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    plan, usable = planned(name, cluster), parse_cluster(cluster).gpu.memory * USABLE  # type: ignore[union-attr]
    assert fullest == f"{plan.fit.fullest / GIB:.1f} of {usable / GIB:.1f}"
    assert step == f"{expected(plan):.0f} ({expected(plan, 'limit'):.0f})"


def test_every_ppo_config_has_a_row() -> None:
    files = {path.stem for path in GPU_CONFIGS.glob("*.yaml") if not path.stem.startswith(("sft", "reward"))}
    assert files == {row[0] for row in rows("config | cluster")}


def test_published_times() -> None:
    assert as_written("run | published, s | limit by hand") == published.table()[2:]


def test_published_parts_of_a_step() -> None:
    assert as_written("part of a step") == published_parts.table()[2:]


def test_published_times_of_planned_configs() -> None:
    assert as_written("run | published, s | the plan's layout") == predicted.table()[2:]


PHASES = ("rollout", "score", "update", "publish", "checkpoint")


def shares_on(gpus: int, prompts: int) -> StagePlan:
    """The 70B config's shares on so many H200."""
    times = gpus // 128
    ranks = {"policy": 64, "critic": 8, "reference": 24, "reward": 8, "rollout": 8}
    overrides = [f"{role}.resources.ranks={count * times}" for role, count in ranks.items()]
    cluster = f"{gpus // 8}x8xH200-141"
    return planned("ppo_llama3_70b_16nodes", cluster, *overrides, f"rollout.prompts_per_step={prompts}")


@pytest.mark.parametrize("row", rows("GPUs | prompts a step"), ids=lambda row: f"{row[0]}-{row[1]}")
def test_1024_gpus(row: list[str]) -> None:
    gpus, prompts = int(row[0]), int(row[1])
    plan, base = shares_on(gpus, prompts), expected(shares_on(128, 1024)) / 1024 * 128
    assert plan.iteration is not None and plan.fit.fits
    seconds = {phase.name: phase.expected for phase in plan.iteration.phases}
    assert row[2:7] == [f"{seconds[name]:.0f}" for name in PHASES]
    assert row[7] == f"{expected(plan):.0f}"
    assert row[8] == ("" if gpus == 128 else f"{base * prompts / (expected(plan) * gpus):.0%}")


@pytest.mark.parametrize("row", rows("GPU | least number, ZeRO-3"), ids=lambda row: row[0])
def test_fine_tuning_of_7b(row: list[str]) -> None:
    model = require("7B-like", "model")
    for kind in row[0].split(", "):
        found = smallest(model, "full", GPUS[kind])
        assert found is not None
        assert row[1:3] == [str(found[0]), f"{found[1].peak / GIB:.0f}"]
    host = training(model, "full", offload=True).memory(ON_GPU)
    words = f"{host.peak / GIB:.0f} GiB and {host.host / GIB:.0f} GiB of host memory"
    assert row[3] in (words, "the same") and host.peak < GPUS[kind].memory * USABLE


def test_a_stale_row_is_seen() -> None:
    """The document's rows are compared as text: another figure is another text."""
    row = rows("config | cluster")[0]
    with pytest.raises(AssertionError):
        test_gpu_configs([*row[:3], "50 (11)"])
    with pytest.raises(AssertionError):
        test_1024_gpus([*rows("GPUs | prompts a step")[0][:-2], "228", ""])
