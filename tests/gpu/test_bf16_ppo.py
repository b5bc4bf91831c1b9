"""PPO with every role on one GPU in bfloat16: the profile `one_gpu.yaml`, for three steps."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from actors.ppo_job import run
from rlhf.config import read_yaml
from rlhf.context import RunContext
from rlhf.metrics import read_json_lines
from rlhf.progress import LineProgress
from tests.gpu.roles import World

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]

PROFILE = Path(__file__).resolve().parents[2] / "configs" / "profiles" / "one_gpu.yaml"
ROLES = ("policy", "critic", "reference", "reward", "rollout")
FEW_CPUS = {role: {"resources": {"cpus": 0.5}} for role in ROLES}
OFFLOAD = {role: {"zero": {"offload_during_rollout": True}} for role in ("policy", "critic")}
# Adam at this rate moves every weight visibly in bfloat16 within three steps.
FAST = {role: {"optimizer": {"learning_rate": 1e-3, "warmup_fraction": 0.0}} for role in ("policy", "critic")}


def train(world: World, output: Path, *updates: dict) -> list[dict]:
    """Three steps of the profile; the rows of metrics."""
    config = world.config(output, read_yaml(PROFILE), FEW_CPUS, FAST, {"checkpoint_every": 3}, *updates)
    run(config, RunContext("ppo", output, "test", {}, LineProgress()))
    return list(read_json_lines(output / "metrics.jsonl"))


@pytest.mark.parametrize("change", [{}, OFFLOAD], ids=["resident", "offloaded"])
def test_three_steps_with_all_roles_on_one_gpu(tied_world: World, tmp_path: Path, change: dict) -> None:
    rows = train(tied_world, tmp_path / "ppo", change)
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    # Step 2 and 3 sample from weights that were trained and published: the gap stays that of rounding.
    assert max(row["sync/logprob_gap_mean"] for row in rows) < 0.03
    assert rows[-1]["kl/per_token"] != pytest.approx(rows[0]["kl/per_token"], abs=1e-6)


def test_the_published_policy_is_bfloat16_and_trained(tied_world: World, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    train(tied_world, tmp_path / "ppo")
    before = load_file(tied_world.policy / "model.safetensors")
    after = load_file(tmp_path / "ppo" / "model.safetensors")
    assert before.keys() == after.keys()
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}
    moved = [name for name, tensor in after.items() if not torch.equal(tensor, before[name].to(torch.bfloat16))]
    assert len(moved) == len(after)
    assert json.loads((tmp_path / "ppo" / "config.json").read_text())["tie_word_embeddings"]
