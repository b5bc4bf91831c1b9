"""The profiles are overlays: on any complete PPO config they give a valid one that fits the machine they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.placement import bundles, check_fits
from rlhf.config import merge, read_yaml, validate
from rlhf.ppo.config import PPOConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
MODELS = {"policy": "sft", "critic": "reward", "reference": "sft", "reward": "reward"}
MINIMAL = {"output": "ppo", "prompts": "prompts.jsonl", **{role: {"model": model} for role, model in MODELS.items()}}
MACHINES = {
    "cpu": {"CPU": 2.0},
    "one_gpu": {"CPU": 8.0, "GPU": 1.0},
    "eight_gpu": {"CPU": 64.0, "GPU": 8.0},
}


def load(profile: str, base: dict) -> PPOConfig:
    return validate(PPOConfig, merge(base, read_yaml(CONFIGS / "profiles" / f"{profile}.yaml")))


def test_every_profile_is_checked_here() -> None:
    assert {path.stem for path in (CONFIGS / "profiles").glob("*.yaml")} == set(MACHINES)


@pytest.mark.parametrize("profile", MACHINES)
def test_a_profile_completes_a_minimal_config_and_fits_its_machine(profile: str) -> None:
    config = load(profile, MINIMAL)
    wanted = bundles(config.roles())
    check_fits(wanted, [MACHINES[profile]])
    gpus = sum(bundle.gpus for role in wanted.values() for bundle in role)
    assert gpus == MACHINES[profile].get("GPU", 0.0)


@pytest.mark.parametrize("profile", MACHINES)
def test_profiles_can_follow_one_another(profile: str) -> None:
    for before in MACHINES:
        merged = merge(MINIMAL, read_yaml(CONFIGS / "profiles" / f"{before}.yaml"))
        assert load(profile, merged).rollout.weight_sync == load(profile, MINIMAL).rollout.weight_sync


@pytest.mark.parametrize("profile", MACHINES)
def test_the_example_config_takes_the_profile(profile: str) -> None:
    example = CONFIGS / "ppo.yaml"
    if not example.is_file():
        pytest.skip("configs/ppo.yaml is not there")
    load(profile, merge(read_yaml(example), {"output": "ppo"}))


def test_all_roles_share_the_one_gpu() -> None:
    config = load("one_gpu", MINIMAL)
    assert {config.place_of(role) for role in config.roles()} == {"policy"}
    assert config.rollout.sleep
    assert config.rollout.weight_sync.kind == "cuda_ipc"


def test_eight_gpus_keep_policy_and_engines_apart() -> None:
    config = load("eight_gpu", MINIMAL)
    assert config.place_of("policy") != config.place_of("rollout")
    assert config.policy.zero.stage == 3
    assert config.rollout.weight_sync.kind == "nccl"


@pytest.mark.parametrize("profile", ["one_gpu", "eight_gpu"])
def test_gpu_profiles_are_bfloat16_throughout(profile: str) -> None:
    config = load(profile, MINIMAL)
    roles = (config.policy, config.critic, config.reference, config.reward, config.rollout)
    assert {role.precision for role in roles} == {"bfloat16"}
