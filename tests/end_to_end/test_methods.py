"""Methods other than GAE-PPO on real engines: what each starts, asks for, and learns from."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ray

from rlhf.metrics import read_json_lines
from tests.end_to_end.jobs import config_of, context_of, small, without_time

pytestmark = pytest.mark.slow
PAIRS = {"responses_per_prompt": 2, "prompts_per_step": 7}

METHODS: dict[str, Mapping[str, Any]] = {
    "grpo": {
        "ppo": {"advantage": {"kind": "grpo"}, "reduction": "sequence_mean_token_mean", "minibatches": 2},
        "kl": {"place": "loss", "estimator": "k3"}, "critic": None, "rollout": PAIRS, "policy": {"ema_decay": 0.5},
    },
    "remax": small(
        ppo={"advantage": {"kind": "remax"}, "loss": {"kind": "cispo"}, "overlong_filter": True}, rollout=PAIRS,
    ),
    "rloo": small(
        ppo={
            "advantage": {"kind": "rloo"}, "loss": {"kind": "gspo"}, "groups": {"kind": "informative"},
            "correction": {"kind": "token_tis"}, "reduction": "sequence_mean_token_sum", "entropy_coef": 0.01,
        },
        rollout=PAIRS,
    ),
    "lora": {
        "ppo": {"advantage": {"kind": "reinforce_pp"}}, "critic": None,
        "policy": {"lora": {"rank": 4}, "zero": {"stage": 3}, "optimizer": {"learning_rate": 0.03}},
    },
    "gae": {"ppo": {"critic_warmup_steps": 1}, "policy": {"frozen_layers": 1}},
}
OFTEN = {"grpo"}  # in every `make test`
LOGGED = {
    "grpo": {"group/informative_fraction"},
    "remax": {"reward/greedy_score"},
    "rloo": {"group/rollouts", "mismatch/kl_k3", "mismatch/changed_fraction"},
    "lora": set(),
    "gae": {"value/explained_variance", "policy/ptx_loss"},
}


@pytest.mark.parametrize("method", [
    method if method in OFTEN else pytest.param(method, marks=pytest.mark.exhaustive) for method in METHODS
])
def test_a_method_trains_from_the_first_rollout_to_the_published_policy(
    ray_cluster, tiny_models, tmp_path, method: str
) -> None:
    from actors.ppo_job import run

    changes = dict(METHODS[method])
    if method == "gae":
        text = tmp_path / "text.jsonl"
        text.write_text("".join(json.dumps({"text": "1 2 3 4 5 6 7 8 9 " * 9, "lang": "en"}) + "\n" for _ in range(9)))
        changes["ptx"] = {"texts": [str(text)], "block_length": 16, "blocks_per_step": 4}
    config = config_of(tiny_models, tmp_path / "ppo", **changes)
    with names_of_actors() as seen:
        published = run(config, context_of(config.output))
    wanted = {f"policy[{rank}]" for rank in range(config.policy.resources.ranks)}
    wanted |= {f"rollout[{rank}]" for rank in range(config.rollout.resources.ranks)}
    assert wanted | {"reward[0]", "reference[0]"} <= seen
    assert ("critic[0]" in seen) == (method == "gae")
    rows = read_json_lines(published.path / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert rows[-1].keys() >= LOGGED[method]
    assert max(row["sync/logprob_gap_max"] for row in rows) <= 1e-4
    require_average(published.path, kept=method == "grpo")
    require_adapters(published.path, config.policy.model, kept=method == "lora")
    moved = [abs(row["kl/per_response"]) > 1e-3 for row in rows]
    assert moved == ([False, False, True] if method == "gae" else [False, True, True])


@contextmanager
def names_of_actors() -> Iterator[set[str]]:
    """The names of the actors that live at some time inside the block."""
    seen: set[str] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            seen.update(ray.util.list_named_actors())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def require_average(directory: Path, kept: bool) -> None:
    """The averaged weights lie between those of before and after, in a directory of their own."""
    assert (directory / "ema").exists() == kept
    if not kept:
        return
    from transformers import AutoModelForCausalLM, AutoTokenizer

    last, average = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (directory, directory / "ema"))
    assert last.keys() == average.keys()
    assert any(not last[name].equal(average[name]) for name in last)
    assert AutoTokenizer.from_pretrained(directory / "ema").chat_template


def require_adapters(directory: Path, base: str, kept: bool) -> None:
    """The adapters on the model that the run began with are the model that it published."""
    assert (directory / "adapter").exists() == kept
    if not kept:
        return
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), directory / "adapter")
    found = adapted.merge_and_unload().state_dict()
    wanted = AutoModelForCausalLM.from_pretrained(directory).state_dict()
    assert found.keys() == wanted.keys()
    assert max(float((found[name] - wanted[name]).abs().max()) for name in found) <= 1e-6


@pytest.mark.exhaustive
def test_a_method_without_a_critic_goes_on_from_its_checkpoint(ray_cluster, tiny_models, tmp_path) -> None:
    """Two steps and their checkpoint, then the third, as three steps at once."""
    from actors.assembly import roles_of
    from actors.ppo_job import checkpoints_of
    from actors.preparation import prepare
    from rlhf.ppo.loop import train
    from rlhf.ppo.recorder import RunRecorder

    def trained(directory, *parts: int) -> list[dict[str, float]]:
        context = context_of(directory)
        for steps in parts:
            config = config_of(tiny_models, directory, steps=steps, **METHODS["rloo"])
            recorder = RunRecorder(context.work, steps, context.progress)
            with roles_of(config, prepare(config), context.work) as roles:
                train(config, roles, checkpoints_of(config, context), recorder)
            recorder.close()
        return without_time(read_json_lines(context.work / "metrics.jsonl"))

    whole, resumed = trained(tmp_path / "whole", 3), trained(tmp_path / "parts", 2, 3)
    assert len(whole) == 3 and not [key for key in whole[0] if key.startswith("value/")]
    for one, other in zip(whole, resumed, strict=True):
        without_rate = [{k: v for k, v in row.items() if k != "policy/learning_rate"} for row in (one, other)]
        assert without_rate[0] == without_rate[1]
    assert ray.is_initialized()
