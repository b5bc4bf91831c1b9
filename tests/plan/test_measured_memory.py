"""What the planner says of a CPU actor's memory, against what real actors with real DeepSpeed took at their peak."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.plan.actor_memory import SIZES, build, config_of, predicted, scored_peak, trained_peak

WITHIN = 0.15


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sizes")
    return {name: build(size, root / name) for name, size in SIZES.items()}


def check(role: str, measured: float, expected: float) -> None:
    print(f"{role}: measured {measured / 2**20:.0f} MiB, planned {expected / 2**20:.0f} MiB, {expected / measured:.3f}")
    assert expected == pytest.approx(measured, rel=WITHIN)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_a_policy_takes_what_was_planned(size: str, ray_cluster: str, models: dict[str, Path], tmp_path: Path) -> None:
    from actors.learners import PolicyProcess

    config = config_of(models[size], 2, "float32")
    check(f"policy {size}", trained_peak(PolicyProcess, config, tmp_path), predicted(config, "policy")[1].peak)


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [(0, "float32"), (3, "float32"), (2, "bfloat16")])
def test_other_stages_and_precisions(
    stage: int, precision: str, ray_cluster: str, models: dict[str, Path], tmp_path: Path
) -> None:
    from actors.learners import PolicyProcess

    config = config_of(models["63M"], stage, precision)
    measured = trained_peak(PolicyProcess, config, tmp_path)
    check(f"policy 63M, stage {stage}, {precision}", measured, predicted(config, "policy")[1].peak)


@pytest.mark.slow
def test_a_critic_and_a_reference(ray_cluster: str, models: dict[str, Path], tmp_path: Path) -> None:
    from actors.learners import CriticProcess
    from actors.scorers import ReferenceProcess

    config = config_of(models["89M"], 2, "float32")
    check("critic 89M", trained_peak(CriticProcess, config, tmp_path), predicted(config, "critic")[1].peak)
    check("reference 89M", scored_peak(ReferenceProcess, config), predicted(config, "reference")[1].peak)
