"""What every test shares. Markers and the time limit of a test are in pyproject.toml."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run, and no clock: a loaded machine fails no test.
settings.register_profile("same_everywhere", deadline=None, derandomize=True, max_examples=200)
settings.load_profile("same_everywhere")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files of slow tests come first, so that two workers end together. Tests marked `gpu` are skipped where there is
    no CUDA device; torch is loaded only when there are such tests."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """Ray on this machine, started once for all tests that need it, with four CPUs; its address for other processes."""
    from actors.session import ray_session
    from rlhf.stage import ClusterConfig

    with pytest.MonkeyPatch.context() as patch:
        # Ray reads it once, when it is first imported, which another test may have done already.
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "1")
        with ray_session(ClusterConfig(cpus=4, object_store_gib=0.5)):
            import ray

            yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="session")
def rank_groups(ray_cluster) -> dict[int, list]:
    """Processes that have met as the ranks of a role, one group of one and one of two."""
    import ray

    from tests.training.ranks import LearnerRank

    remote = ray.remote(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(LearnerRank)
    groups = {count: [remote.remote(rank) for rank in range(count)] for count in (1, 2)}
    for count, group in groups.items():
        address, port = ray.get(group[0].meeting_place.remote())
        ray.get([actor.join.remote(count, address, port) for actor in group])
    return groups


@dataclass(frozen=True)
class TinyModels:
    """Directories of a policy with tied and one with untied embeddings, of a reward model, and a file of prompts."""

    tied: Path
    untied: Path
    reward: Path
    prompts: Path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> TinyModels:
    """Untrained Qwen2 models of 100,000 parameters with a tokenizer beside each; the same in every session."""
    import torch

    from rlhf.models.loading import new_reward_model
    from rlhf.tokenization.train import train_tokenizer

    root = tmp_path_factory.mktemp("models")
    draw = random.Random(0)
    texts = [" ".join(str(draw.randrange(1000)) for _ in range(draw.randrange(2, 9))) + " 请排序" for _ in range(64)]
    tokenizer = train_tokenizer(texts, 300)
    models = TinyModels(root / "tied", root / "untied", root / "reward", root / "prompts.jsonl")
    _save_policy(models.tied, tokenizer, tied=True)
    _save_policy(models.untied, tokenizer, tied=False)
    new_reward_model(models.tied, torch.float32, 0).save_pretrained(models.reward)
    tokenizer.save_pretrained(models.reward)
    records = ({"id": str(k), "prompt": [{"role": "user", "content": text}]} for k, text in enumerate(texts))
    models.prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    return models


def _save_policy(directory: Path, tokenizer: Any, tied: bool) -> None:
    import torch

    from rlhf.models.loading import NewModelConfig, new_causal_lm

    sizes = NewModelConfig(
        hidden_size=64, layers=2, heads=2, kv_heads=1, intermediate_size=128, max_positions=256, tie_embeddings=tied
    )  # vLLM's CPU attention wants heads of 32 or more
    model = new_causal_lm(sizes, tokenizer, seed=0)
    with torch.no_grad():
        # Distributions that are not flat, and an end of sequence that comes early in some responses.
        output = model.get_output_embeddings().weight
        output *= 5
        output[tokenizer.eos_token_id] *= 4
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
