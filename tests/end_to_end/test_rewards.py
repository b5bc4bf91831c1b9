"""A reward of several parts on real engines: two models, a function, a rule and a service, routed by source."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.metrics import read_json_lines, read_objects
from tests.end_to_end.jobs import config_of, context_of, small, transcript_of

pytestmark = pytest.mark.slow
FUNCTION = """
def score(sample):
    if len(sample.response) % 3 == 0:
        raise ValueError("a length that I do not like")
    return float(len(sample.response))
"""


@pytest.fixture(scope="module")
def service(tiny_models) -> Iterator[str]:
    """A served reward model, in a thread."""
    import uvicorn

    from rlhf.rewards.server import application, load_served

    app = application(load_served(str(tiny_models.reward), "float32", 4096), "rm", None)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        threading.Event().wait(0.05)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/score"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def prompts(tiny_models, tmp_path_factory) -> Path:
    """The tiny prompts, every other one from another source."""
    path = tmp_path_factory.mktemp("sources") / "prompts.jsonl"
    records = [json.loads(line) for line in tiny_models.prompts.read_text().splitlines()]
    path.write_text("".join(
        json.dumps({**record, "source": ("math", "chat")[k % 2], "task": {"answer": "1"}}) + "\n"
        for k, record in enumerate(records)
    ))
    return path


def parts_of(models, service: str, function: Path) -> dict:
    return {
        "twin": {"kind": "model", "model": str(models.reward), "weight": 0.5, "resources": {"cpus": 0.1}},
        "remote": {"kind": "http", "url": service, "weight": -0.5, "batch_size": 5},
        "length": {"kind": "function", "file": str(function), "function": "score", "sources": ["math"], "weight": 0.1},
        "answer": {"kind": "exact_match", "sources": ["chat"]},
    }


def test_all_kinds_of_parts_add_up(ray_cluster, tiny_models, service, prompts, tmp_path) -> None:
    from actors.ppo_job import run

    function = tmp_path / "mine.py"
    function.write_text(FUNCTION)
    reward = {"parts": parts_of(tiny_models, service, function), "failures": {"kind": "skip", "max_fraction": 0.9}}
    changes = small(ppo={"advantage": {"kind": "rloo"}}, rollout={"responses_per_prompt": 2, "prompts_per_step": 7})
    config = config_of(tiny_models, tmp_path / "ppo", prompts=str(prompts), steps=2, reward=reward, **changes)
    published = run(config, context_of(config.output))
    rows = read_json_lines(published.path / "metrics.jsonl")
    names = {"model", "twin", "remote", "length", "answer"}
    assert {name.removeprefix("reward/part/") for row in rows for name in row if "/part/" in name} == names
    frame = transcript_of(published.path, 2)
    of_math = frame["source"] == "math"
    assert (frame["score/length"].isna() | of_math).all() and (frame["score/answer"].isna() == of_math).all()
    failed = of_math & frame["score/length"].isna()
    lengths = frame["response"].str.len()
    assert (failed == (of_math & (lengths % 3 == 0))).all() and failed.any() and not failed.all()
    assert rows[1]["reward/failed_fraction"] == pytest.approx(failed.mean())
    # The twin is the model itself, and so is the service but for re-tokenised text and its end token.
    assert frame["score/twin"].to_numpy() == pytest.approx(frame["score/model"].to_numpy(), abs=1e-6)
    assert (frame["score/length"][of_math & ~failed] == lengths[of_math & ~failed]).all()
    wanted = frame["score/model"] + 0.5 * frame["score/twin"] - 0.5 * frame["score/remote"]
    wanted = wanted + 0.1 * frame["score/length"].fillna(0) + frame["score/answer"].fillna(0)
    assert frame["score"][~failed].to_numpy() == pytest.approx(wanted[~failed].to_numpy(), abs=1e-5)
    assert frame["score"][failed].isna().all() and (frame["failed"] == failed.map({True: "length", False: ""})).all()
    assert rows[1]["reward/score"] == pytest.approx(frame["score"].mean(), abs=1e-5)
    assert max(row["sync/logprob_gap_max"] for row in rows) <= 1e-4


@pytest.mark.parametrize(
    ("failures", "said"),
    [
        (
            {"kind": "stop"},
            r"reward\.length: \d+ of 14 samples have no score; prompt \d+: raised ValueError: a length.*; the samples "
            r"were saved as .*/ppo\.work/failures/reward\.length\.jsonl; mend that",
        ),
        pytest.param(
            {"kind": "skip", "max_fraction": 0.01}, r"step 1: \d+ of 14 samples have no score of length, more .* 0\.01",
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_failures_stop_the_run_in_a_sentence(ray_cluster, tiny_models, tmp_path, failures: dict, said: str) -> None:
    from actors.ppo_job import run

    function = tmp_path / "mine.py"
    function.write_text(FUNCTION)
    part = {"kind": "function", "file": str(function), "function": "score"}
    reward = {"model": None, "parts": {"length": part}, "failures": failures}
    changes = small(loop={"kind": "rollouts_only"}, reward=reward)
    config = config_of(tiny_models, tmp_path / "ppo", steps=1, **changes)
    with pytest.raises(RunError, match=said):
        run(config, context_of(config.output))
    kept = config.output.with_name("ppo.work") / "failures" / "reward.length.jsonl"
    rows = read_objects(kept)
    assert len(rows) == (14 if failures["kind"] == "stop" else 0)
    assert all(("score" in row) != ("failed" in row) for row in rows)


def test_prompts_that_nothing_scores_are_refused(tiny_models, prompts, tmp_path) -> None:
    from actors.preparation import prepare
    from rlhf.errors import DataError

    reward = {"model": str(tiny_models.reward), "sources": ["math"]}
    config = config_of(tiny_models, tmp_path / "ppo", prompts=str(prompts), reward=reward)
    with pytest.raises(DataError, match="no part of the reward scores prompts whose source is chat"):
        prepare(config)
