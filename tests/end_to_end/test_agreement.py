"""Sampler and learner are one policy: real vLLM engines and real DeepSpeed ranks in real PPO jobs.

After every weight sync the engines' log-probabilities are the learner's, whatever the ZeRO stage and whether
embeddings are tied; rollouts do not depend on the number of engines; a killed run goes on exactly. What the
sampler is sent at the other ZeRO stages and ties is compared with the model in tests/training.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from rlhf.metrics import read_json_lines
from tests.end_to_end.jobs import (
    Probed,
    config_of,
    context_of,
    metrics_of,
    probe,
    rollout_of,
    settings,
    transcript_of,
    without_time,
    work_of,
)

pytestmark = pytest.mark.slow
GAP = 1e-4  # nats
STEPS = 12
WHOLE = {"steps": STEPS, "critic": {"zero": {"stage": 3}}, "rollout": {"save": True}}


@pytest.fixture(scope="module")
def whole(ray_cluster, tiny_models, tmp_path_factory) -> Probed:
    """Tied embeddings, policy of two ranks under ZeRO-2, critic under ZeRO-3, two engines; not interrupted."""
    return probe(config_of(tiny_models, tmp_path_factory.mktemp("whole") / "ppo", **WHOLE))


def require_agreement(rows: list[dict[str, float]], steps: int) -> None:
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    gaps = [row["sync/logprob_gap_max"] for row in rows]
    assert max(gaps) <= GAP, gaps
    # The policy moved: it begins as the reference and ends far from it.
    assert abs(rows[0]["kl/per_response"]) < 1e-4 and abs(rows[-1]["kl/per_response"]) > 0.05


def test_sampler_and_learner_agree_after_every_sync(whole: Probed) -> None:
    rows = metrics_of(whole.output)
    require_agreement(rows, STEPS)
    assert 0 < rows[0]["response/truncated_fraction"] < 1  # responses of both kinds


def test_rollouts_are_bit_equal_whatever_the_batch_and_the_number_of_engines(whole: Probed) -> None:
    first, *others = whole.rollouts
    assert len(others) == 4
    for other in others:
        for name in ("tokens", "response_mask", "sampler_logprobs", "finished"):
            assert torch.equal(getattr(other, name), getattr(first, name)), name


def test_a_stale_engine_is_refused(whole: Probed) -> None:
    assert f"holds the weights of policy version {STEPS}, and version {STEPS + 1} was asked for" in whole.stale_error


def test_weights_that_are_not_the_policys_stop_the_run(whole: Probed) -> None:
    """The weights before PPO under the newest version's name: a large gap, and an error that says so."""
    assert whole.gap_of_stale_weights > 0.1
    assert f"sampler and learner disagree by {whole.gap_of_stale_weights:.3g} nats" in whole.gap_error
    assert whole.gap_after_sync <= GAP


def command(output: Path, tiny_models, address: str) -> subprocess.Popen:
    """`rlhf ppo` with the config of `whole`, as a process of its own on the same cluster."""
    file = output.with_suffix(".yaml")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(settings(tiny_models, output, **WHOLE)))
    environment = {**os.environ, "RAY_ADDRESS": address, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "rlhf", "ppo", str(file)]
    with open(output.with_suffix(".log"), "a") as log:
        return subprocess.Popen(words, env=environment, stdout=log, stderr=subprocess.STDOUT)


def wait_for_rows(process: subprocess.Popen, output: Path, count: int) -> None:
    while len(metrics_of(output)) < count:
        assert process.poll() is None, output.with_suffix(".log").read_text()
        time.sleep(0.01)


def test_a_killed_run_goes_on_exactly(whole: Probed, ray_cluster: str, tiny_models, tmp_path: Path) -> None:
    """SIGKILL between two checkpoints, SIGTERM in the next attempt, and the same command again: number for number.

    While it runs, a second run in the same place is refused; what the killed one left is no obstacle.
    """
    output, log = tmp_path / "ppo", tmp_path / "ppo.log"
    process = command(output, tiny_models, ray_cluster)
    wait_for_rows(process, output, 3)
    process.send_signal(signal.SIGSTOP)  # it holds the directory, and makes no step while the second one starts
    second = command(output, tiny_models, ray_cluster)
    assert second.wait() == 2
    assert f"ppo.work: in use by process {process.pid} on " in log.read_text()
    assert process.poll() is None and len(metrics_of(output)) < STEPS
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists()
    again = command(output, tiny_models, ray_cluster)
    wait_for_rows(again, output, len(metrics_of(output)) + 1)
    again.send_signal(signal.SIGTERM)
    assert again.wait() == 143, log.read_text()
    assert f"the run of process {process.pid} on " in log.read_text()
    reached = len(metrics_of(output))
    assert reached < STEPS and f"ppo: ended on SIGTERM after step {reached} of {STEPS}; the same" in log.read_text()
    assert (work_of(output) / "checkpoints" / f"step_{reached:06d}" / "checkpoint.sha256").is_file()
    assert command(output, tiny_models, ray_cluster).wait() == 0, log.read_text()
    wanted = without_time(metrics_of(whole.output))
    assert without_time(metrics_of(output)) == wanted
    assert without_time(read_json_lines(output / "metrics.jsonl")) == wanted
    for step in range(1, STEPS + 1):
        assert transcript_of(output, step).equals(transcript_of(work_of(whole.output), step)), step
        assert rollout_of(output, step).equals(rollout_of(work_of(whole.output), step)), step


def published(models, output: Path, **changes) -> tuple[list[dict[str, float]], dict[str, float]]:
    """Run a job to its end; its metrics, and how far each weight went from where it started."""
    from safetensors.torch import load_file

    from actors.ppo_job import run

    config = config_of(models, output, **changes)
    artifact = run(config, context_of(output))
    after = load_file(artifact.path / "model.safetensors")
    before = load_file(Path(config.policy.model) / "model.safetensors")
    assert after.keys() == before.keys()
    return metrics_of(output), {name: float((after[name] - before[name]).abs().max()) for name in before}


def test_untied_embeddings_under_zero_3(ray_cluster, tiny_models, tmp_path: Path) -> None:
    """Two ranks, two engines, and a temperature; input and output embeddings both move. Reference and reward model are
    divided over two ranks as well."""
    two = {"divided": True, "resources": {"ranks": 2, "cpus": 0.2}}
    changes = {
        "tied": False, "policy": {"zero": {"stage": 3}}, "rollout": {"temperature": 0.7},
        "reference": two, "reward": two,
    }
    rows, moved = published(tiny_models, tmp_path / "ppo", **changes)
    require_agreement(rows, 3)
    assert abs(rows[0]["kl/per_response"]) < 1e-3 < abs(rows[2]["kl/per_response"])  # to the policy as it was
    assert min(moved["lm_head.weight"], moved["model.embed_tokens.weight"]) > 0.01


@pytest.mark.exhaustive
def test_one_rank_without_zero_and_one_engine_start_with_the_same_rollout(
    whole: Probed, ray_cluster, tiny_models, tmp_path: Path
) -> None:
    changes = {"policy": {"zero": {"stage": 0}, "resources": {"ranks": 1}}, "rollout": {"resources": {"ranks": 1}}}
    rows, moved = published(tiny_models, tmp_path / "ppo", **changes)
    require_agreement(rows, 3)
    assert moved["model.embed_tokens.weight"] > 0.01 and "lm_head.weight" not in moved
    columns = ["prompt", "response", "score", "length", "finished"]
    alone, both = transcript_of(tmp_path / "ppo", 1), transcript_of(work_of(whole.output), 1)
    assert alone[columns].equals(both[columns])
    first, same = rows[0], metrics_of(whole.output)[0]
    for name in ("policy/loss", "value/loss", "policy/grad_norm", "value/grad_norm", "policy/entropy"):
        assert first[name] == pytest.approx(same[name], abs=1e-4, rel=1e-4), name
