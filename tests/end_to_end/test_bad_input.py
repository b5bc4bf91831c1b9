"""Bad input through the real command: one sentence on stderr, exit code 2, and nothing half-written.

What needs no Ray is refused before Ray starts; the other commands share one cluster of four CPUs.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf.metrics import read_json_lines
from tests.end_to_end.jobs import transcript_of
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
GOOD = '{"prompt": [{"role": "user", "content": "1 2 3"}]}\n'


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    told: list[str]


def rlhf(*arguments: str, **environment: str) -> Outcome:
    """Run the command as a user would."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled", **environment}
    done = subprocess.run(
        [sys.executable, "-m", "rlhf", *arguments], cwd=ROOT, env=variables, text=True, capture_output=True,
        timeout=HANG_S, check=False,
    )
    return Outcome(done.returncode, done.stderr.splitlines())


def assert_refused(outcome: Outcome, expected: str) -> None:
    assert outcome.code == 2, outcome
    assert len(outcome.told) == 1, outcome.told
    assert re.fullmatch(f"rlhf: {expected}", outcome.told[0]), outcome.told[0]


def assert_nothing_written(root: Path, name: str) -> None:
    """No artifact and no draft; of the work directory at most the resolved config."""
    assert {path.name for path in root.glob(f"*{name}*")} <= {f"{name}.work"}
    assert {path.name for path in root.glob(f"{name}.work/*")} <= {"config.yaml"}


@pytest.fixture()
def ppo(tiny_models: Any, ray_cluster: str, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs a good PPO config of two steps on the cluster, with overrides that spoil it, into `tmp_path/ppo`."""
    arguments = [
        f"output={tmp_path / 'ppo'}", "steps=2", f"prompts={tiny_models.prompts}",
        f"policy.model={tiny_models.tied}", f"reference.model={tiny_models.tied}",
        f"critic.model={tiny_models.reward}", f"reward.model={tiny_models.reward}",
        *(f"{role}.resources.cpus=0.2" for role in ("policy", "critic", "reference", "reward", "rollout")),
        "rollout.prompts_per_step=8", "rollout.max_new_tokens=8", "rollout.kv_cache_gib=1",
    ]
    return lambda *overrides: rlhf("ppo", *arguments, *overrides, RAY_ADDRESS=ray_cluster)


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(lines), encoding="utf-8")
    return path


# ---- refused before Ray starts: what these commands name does not exist


def test_missing_files_are_all_named(tmp_path: Path) -> None:
    outcome = rlhf(
        "ppo", f"output={tmp_path / 'ppo'}", "prompts=absent/prompts.jsonl", "policy.model=absent/a/policy",
        f"critic.model={tmp_path / 'critic'}", "reference.model=owner/name", "reward.model=~/reward",
    )
    assert outcome.code == 2
    hub = " or a hub name (owner/name)"
    assert outcome.told == [
        f"rlhf: {key}: {value}: no such file or directory; give an existing path{more}"
        for key, value, more in (
            ("prompts", "absent/prompts.jsonl", ""), ("policy.model", "absent/a/policy", hub),
            ("critic.model", str(tmp_path / "critic"), hub), ("reward.model", "~/reward", hub),
        )
    ]
    assert_nothing_written(tmp_path, "ppo")


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:9", r"no Ray cluster answers at 127\.0\.0\.1:9 \(Connection refused\); start one with .*"),
        ("http://127.0.0.1:8265", r"'http://127\.0\.0\.1:8265' is no address of a Ray cluster; give host:port .*"),
    ],
)
def test_an_address_where_no_cluster_is_does_not_hang(tmp_path: Path, address: str, expected: str) -> None:
    prompts = write(tmp_path / "prompts.jsonl", GOOD)
    outcome = rlhf("pairs", f"output={tmp_path / 'pairs'}", "model=owner/name", f"prompts={prompts}",
                   RAY_ADDRESS=address)
    assert_refused(outcome, expected)
    assert_nothing_written(tmp_path, "pairs")


def test_something_else_at_the_address_is_no_cluster(tmp_path: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0", "-d", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    try:
        port = re.search(r"port (\d+)", server.stdout.readline())[1]
        prompts = write(tmp_path / "prompts.jsonl", GOOD)
        outcome = rlhf("pairs", f"output={tmp_path / 'pairs'}", "model=owner/name", f"prompts={prompts}",
                       RAY_ADDRESS=f"127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
    assert_refused(outcome, rf"no Ray cluster answers at 127\.0\.0\.1:{port} \(what answers there is no Ray head; .*")


TOO_MANY = r"; 1 of [12] records of {path} are bad, more than source\.max_bad = 0\.01"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "{path}: holds no records; give a file with at least one"),
        (('{"text": "a"}\n', '{"text": \n'), r"{path}:2: malformed line, not JSON .*; correct or remove it{bad}"),
        (('{"text": "a"}\n', "[1]\n"), r"{path}:2: malformed line, expected an object with columns, found a list{bad}"),
        (('{"txt": "a"}\n',), r"{path}:1: missing columns for text data: .*did you mean 'text' where .*'txt'\?{bad}"),
        (('{"text": 3}\n',), r"{path}:1: column 'text' holds a int, expected text{bad}"),
    ],
)
def test_bad_data_is_named_by_file_and_line(tmp_path: Path, lines: tuple[str, ...], expected: str) -> None:
    path = write(tmp_path / "text.jsonl", *lines)
    outcome = rlhf("data", f"output={tmp_path / 'data'}",
                   f"source={{kind: files, text: [{{files: [{path}], lang: en}}]}}")
    assert_refused(outcome, expected.replace("{bad}", TOO_MANY).replace("{path}", re.escape(str(path))))
    assert_nothing_written(tmp_path, "data")


# ---- refused by a stage that is connected to the cluster


TOO_MANY = r"; 1 of [12] records of {path} are bad, more than source\.max_bad = 0\.01"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), "{path}: holds no records; give a file with at least one"),
        ((GOOD, "{]\n"), r"{path}:2: malformed line, not JSON .*"),
        ((GOOD, '{"promt": "x"}\n'), r"{path}:2: missing columns for prompt data: .*did you mean 'prompt' .*"),
        (
            (GOOD, json.dumps({"prompt": "1 " * 300}) + "\n"),
            r"{path}:2: the prompt has \d+ tokens, and the context leaves room for 248; "
            r"shorten it, drop it, or lower max_new_tokens",
        ),
    ],
)
def test_bad_prompts_are_named_by_file_and_line(
    ppo: Callable[..., Outcome], tmp_path: Path, lines: tuple[str, ...], expected: str
) -> None:
    path = write(tmp_path / "prompts.jsonl", *lines)
    assert_refused(ppo(f"prompts={path}"), expected.replace("{bad}", TOO_MANY).replace("{path}", re.escape(str(path))))
    assert_nothing_written(tmp_path, "ppo")


def changed(source: Path, target: Path, change: Callable[[Any], None], **loading: Any) -> Path:
    """A copy of a reward model whose weights `change` has altered."""
    from transformers import AutoModelForSequenceClassification

    shutil.copytree(source, target)
    model = AutoModelForSequenceClassification.from_pretrained(source, **loading)
    change(model)
    model.save_pretrained(target)
    return target


def test_a_reward_model_that_is_none_is_refused(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    assert_refused(
        ppo(f"reward.model={tiny_models.tied}"),
        rf"{tiny_models.tied}: not a reward model \(a sequence classifier\): it holds a Qwen2ForCausalLM",
    )
    two = changed(tiny_models.reward, tmp_path / "two", lambda _: None, num_labels=2, ignore_mismatched_sizes=True)
    assert_refused(
        ppo(f"reward.model={two}"), rf"{two}: not a reward model: it has 2 outputs, a reward model has one"
    )
    assert_nothing_written(tmp_path, "ppo")


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    policy = shutil.copytree(tiny_models.tied, tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(policy)
    assert_refused(
        ppo(f"policy.model={policy}"),
        rf"{policy}: the tokenizer does not fit the model: it produces ids up to \d+ .*; give the model's own .*",
    )
    assert_nothing_written(tmp_path, "ppo")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["reward.resources.cpus=9"],
            r"the run asks for 9\.8 CPUs \(policy 0\.2, critic 0\.2, reference 0\.2, reward 9, rollout 0\.2\) and the "
            r"cluster has 4; lower resources\.cpus or ranks of a role, let roles share devices, or add nodes",
        ),
        (["critic.resources.gpus=1"], r"the run asks for 1 GPUs \(.*critic 1, .*\) and the cluster has 0; .*"),
        (
            ["policy.resources.ranks=2", "policy.resources.strategy=STRICT_SPREAD"],
            r"policy: STRICT_SPREAD needs 2 nodes with 0\.2 CPUs each, and the cluster has 1; use SPREAD, or .*",
        ),
    ],
)
def test_more_than_the_cluster_has_is_refused_at_once(
    ppo: Callable[..., Outcome], tmp_path: Path, overrides: list[str], expected: str
) -> None:
    assert_refused(ppo(*overrides), expected)
    assert_nothing_written(tmp_path, "ppo")


def test_more_workers_than_the_cluster_has_are_refused_at_once(
    tiny_models: Any, ray_cluster: str, tmp_path: Path
) -> None:
    outcome = rlhf(
        "sft", f"output={tmp_path / 'sft'}", f"model={tiny_models.tied}", f"train=[{tiny_models.prompts}]",
        f"validation=[{tiny_models.prompts}]", "training.workers={count: 5, cpus: 1}", "training.batch_size=160",
        RAY_ADDRESS=ray_cluster,
    )
    assert_refused(outcome, r"training\.workers asks for 5 times 1 CPU = 5, the cluster has 4; .*")
    assert_nothing_written(tmp_path, "sft")


def test_a_cluster_started_for_the_command_has_what_the_config_says(tiny_models: Any, tmp_path: Path) -> None:
    outcome = rlhf(
        "evaluate", f"output={tmp_path / 'evaluate'}", f"models={{base: {tiny_models.tied}}}",
        f"prompts={tiny_models.prompts}", "cluster={cpus: 1, object_store_gib: 0.1}",
        "sampler={max_new_tokens: 8, resources: {cpus: 2}}",
    )
    assert_refused(outcome, r"the run asks for 2 CPUs \(rollout 2\) and the cluster has 1; .*")
    assert_nothing_written(tmp_path, "evaluate")


# ---- met in a process of Ray


def test_what_a_role_refuses_while_it_starts_is_told_as_a_sentence(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    cut = shutil.copytree(tiny_models.reward, tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert_refused(ppo(f"reward.model={cut}"), rf"{cut}: no usable reward model \(.*header.*\)")
    assert not (tmp_path / "ppo").exists()


def test_a_reward_that_is_not_finite_ends_the_run_with_its_batch(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    def spoil(model: Any) -> None:
        model.score.weight.data[0, 0] = float("nan")

    spoilt = changed(tiny_models.reward, tmp_path / "spoilt", spoil)
    saved = tmp_path / "ppo.work" / "failures" / "step_000001_reward.safetensors"
    assert_refused(
        ppo(f"reward.model={spoilt}"),
        rf"step 1, role reward: 8 of 8 rows of its scores are not finite; the batch was saved as {saved}; look for .*",
    )
    batch = load_file(saved)
    assert batch["tokens"].shape == batch["response_mask"].shape
    assert batch["scores"].isnan().all() and len(batch["scores"]) == 8
    assert not (tmp_path / "ppo").exists() and not list(tmp_path.glob(".ppo.*"))


@pytest.mark.exhaustive
def test_rows_whose_reward_is_not_finite_are_left_out_where_the_config_says_so(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    """A reward model that answers NaN wherever it sees one of some tokens."""

    def spoil(model: Any) -> None:
        model.get_input_embeddings().weight.data[45:65] = float("nan")

    spoilt = changed(tiny_models.reward, tmp_path / "spoilt", spoil)
    outcome = ppo(f"reward.model={spoilt}", "not_finite={kind: skip, max_fraction: 0.9}", "transcripts_every=1")
    assert outcome.code == 0, outcome
    for row in read_json_lines(tmp_path / "ppo" / "metrics.jsonl"):
        assert 0 < row["rollout/left_out"] < 8 and math.isfinite(row["reward/score"])
        assert row["policy/left_out"] == 0 and math.isfinite(row["policy/loss"])
        told = transcript_of(tmp_path / "ppo", row["step"])
        assert (told["failed"] == "model").sum() == row["rollout/left_out"] == told["score"].isna().sum()
    assert (tmp_path / "ppo.work" / "failures" / "step_000001_reward.safetensors").is_file()


@pytest.mark.exhaustive
def test_a_loss_that_is_not_finite_ends_the_run_with_its_batch_and_another_config_may_follow(
    ppo: Callable[..., Outcome], tiny_models: Any, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    def enlarge(model: Any) -> None:
        model.score.weight.data.fill_(1e30)  # values that are finite, and whose squares are not

    large = changed(tiny_models.reward, tmp_path / "large", enlarge)
    outcome = ppo(f"critic.model={large}")
    assert_refused(
        outcome,
        r"step 1, role critic: the loss is not finite; the micro-batch of each rank was saved as "
        r".*/failures/step_\d+_critic_1_rank\*\.safetensors; .*",
    )
    pattern = re.search(r"saved as (\S+);", outcome.told[0])[1]
    (saved,) = Path(pattern).parent.glob(Path(pattern).name)
    assert load_file(saved)["returns"].dim() == 2
    assert not (tmp_path / "ppo").exists()
    # nothing of that run is worth going on with, so its directory takes another config
    assert_refused(ppo("policy.resources.cpus=99"), r"the run asks for 99\.8 CPUs .*")


def test_a_run_directory_of_another_config_is_left_as_it_is(ppo: Callable[..., Outcome], tmp_path: Path) -> None:
    work = tmp_path / "ppo.work"
    (work / "checkpoints" / "step_000001").mkdir(parents=True)
    write(work / "claim.json", json.dumps({"config": {"steps": 7}, "inputs": {}}))
    write(work / "config.yaml", "steps: 7\n")
    outcome = ppo()
    assert_refused(
        outcome,
        rf"{work}: holds an unfinished run that differs in .*; give this run another output, or delete the directory "
        r"to start over",
    )
    assert (work / "config.yaml").read_text() == "steps: 7\n"
    assert {path.name for path in work.iterdir()} == {"checkpoints", "claim.json", "config.yaml"}
