"""The policy's weights as a transfer takes them, on two real ranks, under every way of dividing them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2


def run_ranks(stage: int, precision: str) -> list[dict]:
    """What both ranks report, each a process of its own: DeepSpeed keeps state for the whole of one."""
    from rlhf.training.ranks import MeetingPlace

    meeting = MeetingPlace("127.0.0.1")
    command = [sys.executable, __file__, str(stage), precision, str(meeting.port)]
    started = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
        for rank in range(RANKS)
    ]
    reports = []
    for process in started:
        out, err = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, err[-2000:]
        reports.append(json.loads(out.strip().splitlines()[-1]))
    return reports


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [(2, "bfloat16"), (3, "float32")])
def test_declared_and_yielded_weights_are_the_same_on_all_ranks(stage: int, precision: str) -> None:
    first, second = run_ranks(stage, precision)
    assert first["declared"] == first["yielded"] == second["declared"] == second["yielded"]
    names = [name for name, _, _ in first["declared"]]
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(names)
    assert len(names) == len(set(names))
    assert {dtype for _, dtype, _ in first["declared"]} == {f"torch.{precision}"}
    assert first["same_as_loaded"]
    assert second["same_as_loaded"]


def report(stage: int, precision: str, port: int, rank: int) -> dict:
    """One rank: a policy with tied embeddings under DeepSpeed, its weights declared and yielded."""
    import tempfile

    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from rlhf.device import dtype
    from rlhf.models.heads import PolicyModel
    from rlhf.models.loading import load_causal_lm
    from rlhf.ppo.config import LearnerConfig
    from rlhf.training.build import _partitioned_loading
    from rlhf.training.deepspeed_engine import DeepSpeedEngine, place
    from rlhf.training.ranks import Rank, join_ranks
    from rlhf.training.weight_source import PolicyWeights

    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    original = Qwen2ForCausalLM(
        Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True)
    )
    directory = tempfile.mkdtemp()
    original.save_pretrained(directory)
    join_ranks(Rank(rank, RANKS, "127.0.0.1", port))
    settings = LearnerConfig(model=directory, precision=precision, zero={"stage": stage})
    with _partitioned_loading(settings):
        model = load_causal_lm(directory, dtype(settings.precision))
        module = PolicyModel(model)
    source = PolicyWeights(DeepSpeedEngine(place(module, stage), settings, 10), model)
    yielded = list(source)  # all kept at once, as a bucket of a sender keeps them
    loaded = dict(original.state_dict())
    return {
        "declared": [[info.name, str(info.dtype), list(info.shape)] for info in source.metadata()],
        "yielded": [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in yielded],
        "same_as_loaded": all(torch.equal(tensor, loaded[name].to(tensor.dtype)) for name, tensor in yielded),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    stage, precision, port, rank = sys.argv[1:]
    print(json.dumps(report(int(stage), precision, int(port), int(rank))), flush=True)
    import torch.distributed as dist

    dist.barrier()  # a rank that leaves first may take the other's connection, and with it the other's exit code
    dist.destroy_process_group()
