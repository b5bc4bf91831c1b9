"""The update that NCCL and CUDA IPC drive, on a real engine: start, weights in several parts, finish.

Only the transport between two GPUs is left out: the parts are handed to the worker where its transfer would have
put them. What a part does to a running engine does not depend on the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.rollout import RolloutProcess
from rlhf.models.weights import read_weights
from rlhf.ppo.config import Resources
from rlhf.sampling.vllm_engine import NOT_PUBLISHED, EngineOptions, Sampling

PROMPTS = [[5, 9, 30, 41], [7, 8]]
PART = 3  # weights


def load_part(worker: Any, part: list[tuple[str, torch.Tensor]]) -> None:
    """What `receive_weights` of vLLM's transfer engines does with the parts that they received."""
    from vllm.config import set_current_vllm_config

    with set_current_vllm_config(worker.vllm_config):
        worker.weight_transfer_engine.model.load_weights(part)


def update_in_parts(process: RolloutProcess, weights: list[tuple[str, torch.Tensor]], version: int) -> int:
    """Runs in the engine's process; returns the version that the engine holds half way."""
    process.start_weight_update()
    half_way = process.engine.version
    for start in range(0, len(weights), PART):
        process.engine._llm.collective_rpc(load_part, args=(weights[start : start + PART],))
    process.finish_weight_update(version)
    return half_way


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def directories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models of one architecture: what the engine starts with, and other weights for it."""
    root = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save_model(root / str(seed), seed, tied=request.param)
    return root / "0", root / "1"


def save_model(directory: Path, seed: int, tied: bool) -> None:
    """Random weights, large enough that the distributions are not flat."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    Qwen2ForCausalLM(Qwen2Config(
        vocab_size=128, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.2,
    )).save_pretrained(directory)


@pytest.fixture(scope="module")
def engine(ray_cluster: str, directories: tuple[Path, Path]) -> Iterator[Any]:
    options = EngineOptions(str(directories[0]), max_model_len=64, weight_transfer="nccl", threads=1)
    actor = ray.remote(RolloutProcess).options(num_cpus=0).remote(0, options, Resources(), 0)
    yield actor
    ray.kill(actor)


def learner_logprobs(directory: Path, tokens: torch.Tensor) -> torch.Tensor:
    """log π of every token but the first, [T − 1] float32, nats."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    with torch.inference_mode():
        logprobs = torch.log_softmax(model(tokens[None]).logits[0, :-1], dim=-1)
    return logprobs.gather(1, tokens[1:, None]).squeeze(1)


def largest_gap(rollout: Any, directory: Path) -> float:
    """Between the engine and transformers on the same tokens, nats."""
    gaps = []
    for row in range(len(PROMPTS)):
        length, mask = int(rollout.attention_mask[row].sum()), rollout.response_mask[row]
        ours = learner_logprobs(directory, rollout.tokens[row, :length])
        theirs = rollout.sampler_logprobs[row, 1:length]
        gaps.append((ours - theirs)[mask[1:length]].abs().max().item())
    return max(gaps)


@pytest.mark.slow
def test_weights_that_come_in_parts_are_the_learners(engine: Any, directories: tuple[Path, Path]) -> None:
    """Several updates one after the other, the last back to the first weights; 1e-4 nats, float32."""
    sampling, first, second = Sampling(max_new_tokens=12), *directories
    for version, directory in enumerate((second, first, second)):
        half_way = ray.get(engine.__ray_call__.remote(update_in_parts, read_weights(directory), version))
        assert half_way == NOT_PUBLISHED
        rollout, _ = ray.get(engine.generate.remote(PROMPTS, sampling, [1, 2], version))
        other = first if directory == second else second
        assert largest_gap(rollout, directory) < 1e-4
        assert largest_gap(rollout, other) > 1e-2
