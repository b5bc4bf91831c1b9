"""What the planner says of a CPU actor's memory, against what real actors with real engines took at their peak."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.plan.actor_memory import SIZES, Models, Setup, build, peak

WITHIN = 0.15
LONG = {"rows": 16, "tokens": 1024}  # activations are then a fifth of what a learner of 30 million takes


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Models]:
    root = tmp_path_factory.mktemp("sizes")
    return {name: build(size, root / name) for name, size in SIZES.items()}


def often(one: str, all_of_them: Iterable[str]) -> list[Any]:
    """The cases of a test, one of them in every `make test`."""
    return [each if each == one else pytest.param(each, marks=pytest.mark.exhaustive) for each in all_of_them]


def check(setup: Setup, role: str, work: Path) -> float:
    """Bytes measured."""
    measured, expected = peak(setup, role, work), setup.planned(role).on(None).peak
    print(f"{role}: measured {measured / 2**20:.0f} MiB, planned {expected / 2**20:.0f} MiB, {expected / measured:.3f}")
    assert expected == pytest.approx(measured, rel=WITHIN)
    return measured


@pytest.mark.slow
@pytest.mark.parametrize("size", often("30M", SIZES))
def test_a_policy_takes_what_was_planned(
    size: str, ray_cluster: str, models: dict[str, Models], tmp_path: Path
) -> None:
    check(Setup(models[size]), "policy", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("role", often("rollout", ["critic", "reference", "reward", "rollout"]))
def test_every_other_role_takes_what_was_planned(
    role: str, ray_cluster: str, models: dict[str, Models], tmp_path: Path
) -> None:
    check(Setup(models["89M"]), role, tmp_path)


@pytest.mark.exhaustive
@pytest.mark.slow
def test_recomputed_activations_take_what_was_planned(
    ray_cluster: str, models: dict[str, Models], tmp_path: Path
) -> None:
    """What is planned without recomputing would be too much."""
    kept, recomputed = (Setup(models["30M"], checkpointing=each, **LONG) for each in (False, True))
    measured = check(recomputed, "policy", tmp_path)
    assert kept.planned("policy").on(None).peak > (1 + WITHIN) * measured


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "changes"),
    [
        ("63M", {"stage": 0}), ("63M", {"stage": 3}), ("63M", {"precision": "bfloat16"}), ("30M", LONG),
        ("63M", {"checkpointing": True, "stage": 3, **LONG}),
    ],
)
def test_other_stages_precisions_and_lengths(
    size: str, changes: dict, ray_cluster: str, models: dict[str, Models], tmp_path: Path
) -> None:
    check(Setup(models[size], **changes), "policy", tmp_path)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("role", ["reward", "rollout"])
def test_other_roles_in_bfloat16(role: str, ray_cluster: str, tmp_path: Path) -> None:
    """From files in bfloat16: float32 ones would count while a frozen model is made of them, and no plan has them."""
    check(Setup(build(SIZES["63M"], tmp_path, "bfloat16"), precision="bfloat16"), role, tmp_path)
