"""Generated configs through the command line: each is taken, or refused in sentences. Never a traceback."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import cli
from rlhf.config import read_yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "tokenizer", "pretrain", "sft", "pairs", "reward", "ppo", "evaluate", "report")
ODD = (
    None, True, False, 0, -1, 1, 2**31, 2**32, 2**70, -(2**70), 1e12, 1e308, -1e-308, float("nan"), float("inf"), "",
    " ", "x" * 5000, "雪", "a\x00b", "@nowhere/x", "@", "../../etc", "/", "1", "null", "${HOME}", [], [[]], {},
    {"kind": "none"}, {"kind": None}, {"": 1}, [None], {"a": {"b": {"c": 1}}}, 10**400,
)
odd = st.sampled_from(ODD).map(copy.deepcopy) | st.text(max_size=8) | st.integers() | st.floats()


def sections() -> dict[str, dict[str, Any]]:
    """A config of each stage that stands: those of the demo's pipeline, and the profiles."""
    found = {name: dict(section) for name, section in read_yaml(ROOT / "configs" / "pipeline.yaml")["stages"].items()}
    found["ppo"] = read_yaml(ROOT / "configs" / "ppo.yaml")
    return found


BASES = sections()


def paths(tree: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Every key of a tree of mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A stage's config with one to four changes: another value, a key too few, a key too many, a key misspelt."""
    stage = draw(st.sampled_from(sorted(BASES)))
    tree = copy.deepcopy(BASES[stage]) | {"output": "out"}
    for _ in range(draw(st.integers(1, 4))):
        known = list(paths(tree))
        if not known:
            break
        *above, last = draw(st.sampled_from(known))
        place = tree
        for key in above:
            place = place[key]
        change = draw(st.sampled_from(("value", "value", "value", "remove", "add", "misspell", "replace section")))
        if change == "value":
            place[last] = draw(odd)
        elif change == "remove":
            del place[last]
        elif change == "replace section":
            tree[str(draw(st.sampled_from(sorted(map(str, tree)))))] = draw(odd)
        elif isinstance(place, dict):
            name = draw(st.text(min_size=1, max_size=6)) if change == "add" else str(last)[:-1] + "x"
            place[name] = draw(odd)
    return stage, tree


@dataclass(frozen=True)
class Contradiction:
    """Settings that do not go together, by dotted key; the sentence names all of `names`."""

    settings: dict[str, Any]
    names: tuple[str, ...]


GRPO = {"kind": "grpo"}
TWO = {"rollout.responses_per_prompt": 2}
CONTRADICTIONS = (
    Contradiction({"ppo.minibatches": 999, "rollout.prompts_per_step": 7}, ("ppo.minibatches", "responses of a step")),
    Contradiction({"ppo.advantage": GRPO, **TWO, "critic": {"model": "m"}}, ("critic", "ppo.advantage.kind grpo")),
    Contradiction({"ppo.advantage": {"kind": "gae"}, "critic": None}, ("critic", "ppo.advantage.kind gae")),
    Contradiction(
        {"ppo.advantage": GRPO, "critic": None, "rollout.responses_per_prompt": 1},
        ("rollout.responses_per_prompt", "ppo.advantage.kind grpo"),
    ),
    Contradiction(
        {"ppo.groups": {"kind": "informative"}, "rollout.responses_per_prompt": 1},
        ("ppo.groups.kind informative", "rollout.responses_per_prompt"),
    ),
    Contradiction(
        {"ppo.groups": {"kind": "informative"}, **TWO, "ppo.advantage": {"kind": "remax"}, "critic": None},
        ("ppo.groups.kind informative", "ppo.advantage.kind remax"),
    ),
    Contradiction(
        {"ppo.correction": {"kind": "token_tis"}, "rollout.top_p": 0.9}, ("ppo.correction.kind token_tis", "top_p"),
    ),
    Contradiction(
        {"ppo.correction": {"kind": "icepop"}, "rollout.top_k": 5}, ("ppo.correction.kind icepop", "top_k"),
    ),
    Contradiction(
        {"reward.length_penalty": {"kind": "soft_overlong", "buffer": 64}, "rollout.max_new_tokens": 8},
        ("reward.length_penalty.buffer", "rollout.max_new_tokens"),
    ),
    Contradiction(
        {"ppo.advantage": {"kind": "reinforce_pp"}, "critic": None, "ppo.critic_warmup_steps": 2},
        ("ppo.critic_warmup_steps", "critic"),
    ),
    Contradiction({"steps": 3, "ppo.critic_warmup_steps": 3}, ("ppo.critic_warmup_steps", "steps")),
    Contradiction(
        {"ptx": {"texts": ["t"], "blocks_per_step": 3}, "policy.resources.ranks": 2},
        ("ptx.blocks_per_step", "policy.resources.ranks"),
    ),
    Contradiction({"ptx": {"texts": ["t"]}, "rollout.temperature": 0.5}, ("ptx", "rollout.temperature")),
    Contradiction({"policy.lora": {"rank": 2}, "policy.frozen_layers": 1}, ("policy.lora", "policy.frozen_layers")),
    Contradiction(
        {"ppo.advantage": {"kind": "remax"}, "critic": None, "reward.normalise": {"kind": "batch"}},
        ("normalise.kind batch", "ppo.advantage.kind remax"),
    ),
    Contradiction({"loop": {"kind": "asynchronous"}}, ("loop.kind asynchronous", "ppo.correction.kind")),
    Contradiction(
        {"loop": {"kind": "asynchronous"}, "ppo.correction": {"kind": "token_tis"}, "rollout.sleep": True},
        ("loop.kind asynchronous", "rollout.sleep"),
    ),
    Contradiction(
        {"rollout.sleep": True, "ppo.groups": {"kind": "informative"}, **TWO},
        ("rollout.sleep", "ppo.groups.kind informative"),
    ),
    Contradiction(
        {"rollout.sleep": True, "ppo.advantage": {"kind": "remax"}, "critic": None},
        ("rollout.sleep", "ppo.advantage.kind remax"),
    ),
    Contradiction(
        {"ppo.advantage": {"kind": "reinforce_pp"}, "critic": None, "reference.resources.share": "critic"},
        ("reference.resources.share", "no critic"),
    ),
    Contradiction(
        {"critic.resources": {"share": "policy", "ranks": 2}, "policy.resources.ranks": 1},
        ("critic.resources.ranks", "policy"),
    ),
    Contradiction({"rollout.sleep": True, "rollout.resources.gpus": 0}, ("rollout.sleep", "rollout.resources.gpus")),
    Contradiction(
        {"rollout.tensor_parallel": 2, "rollout.resources.gpus": 1},
        ("rollout.tensor_parallel", "rollout.resources.gpus"),
    ),
    Contradiction(
        {"policy.zero": {"stage": 2, "offload_during_rollout": True}, "rollout.resources.gpus": 1,
         "policy.resources.gpus": 1, "rollout.sleep": False},
        ("policy.zero.offload_during_rollout", "rollout.sleep"),
    ),
    Contradiction(
        {"policy.zero": {"stage": 0, "offload_optimizer": True}}, ("policy.zero", "offload_optimizer", "stage")
    ),
    Contradiction(
        {"policy.zero": {"stage": 3, "offload_during_rollout": True}},
        ("policy.zero", "offload_during_rollout", "stage"),
    ),
    Contradiction(
        {"rollout.weight_sync.kind": "nccl", "rollout.resources.gpus": 0},
        ("rollout.weight_sync.kind nccl", "rollout.resources.gpus"),
    ),
    Contradiction(
        {"rollout.weight_sync.kind": "nccl", "rollout.resources": {"gpus": 1}, "policy.resources.gpus": 0},
        ("rollout.weight_sync.kind nccl", "policy.resources.gpus"),
    ),
    Contradiction(
        {"rollout.weight_sync.kind": "cuda_ipc", "rollout.resources": {"gpus": 1}, "policy.resources.gpus": 1},
        ("rollout.weight_sync.kind cuda_ipc", "rollout.resources.share"),
    ),
    Contradiction(
        {"policy.precision": "bfloat16", "rollout.weight_sync.max_gap": 1e-4},
        ("rollout.weight_sync.max_gap", "policy.precision bfloat16"),
    ),
)
HARMLESS = {
    "seed": st.integers(0, 99), "checkpoint_every": st.integers(1, 9), "ppo.epochs": st.integers(1, 3),
    "policy.optimizer.learning_rate": st.floats(1e-7, 1e-3), "ppo.entropy_coef": st.floats(0.0, 0.1),
    "transcripts_rows": st.integers(1, 64),
}


def plain_ppo() -> dict[str, Any]:
    """A config on CPUs to which every contradiction is the only thing that is wrong."""
    model = {"model": "somewhere"}
    return {
        "output": "out", "prompts": "prompts.jsonl", "steps": 5, "policy": dict(model), "critic": dict(model),
        "reference": dict(model), "reward": dict(model), "rollout": {"prompts_per_step": 8},
    }


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key."""
    *above, last = key.split(".")
    for name in above:
        tree = tree.setdefault(name, {})
    tree[last] = copy.deepcopy(value)


@st.composite
def contradictory(draw: st.DrawFn) -> tuple[dict[str, Any], Contradiction]:
    """A contradiction in a config of which other settings are drawn."""
    tree, wrong = plain_ppo(), draw(st.sampled_from(CONTRADICTIONS))
    for key in sorted(draw(st.sets(st.sampled_from(sorted(HARMLESS))))):
        put(tree, key, draw(HARMLESS[key]))
    for key in draw(st.permutations(sorted(wrong.settings))):
        put(tree, key, wrong.settings[key])
    return tree, wrong


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


class Reached(Exception):
    """The config was taken: the stage would begin."""


def say(*words: str) -> tuple[object, str]:
    """How the command ended, and what it said on stderr; a stage that would begin does not."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as ended:
            return ended.code, said.getvalue()
        except Reached:
            return 0, said.getvalue()
    raise AssertionError("the command returned")


def require_sentences(code: object, said: str) -> None:
    assert code in (0, 2, None), (code, said)
    lines = said.splitlines()
    assert all(line.startswith("rlhf: ") and len(line) < 3000 for line in lines), said
    assert (code == 2) == bool(lines), (code, said)


def test_any_config_is_taken_or_refused_in_sentences(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(cli, "require_runnable", begin)
    ends = {0: 0, 2: 0}

    @settings(max_examples=2000)
    @given(broken())
    def one(case: tuple[str, dict[str, Any]]) -> None:
        stage, tree = case
        path = files / "config.yaml"
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        code, said = say(stage, str(path))
        require_sentences(code, said)
        ends[2 if code == 2 else 0] += 1

    one()
    assert ends[2] > 300 and ends[0] > 50, ends


def refused(files: Path, tree: dict[str, Any]) -> str:
    """What is said of a PPO config that is not taken."""
    path = files / "config.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    code, said = say("ppo", str(path))
    require_sentences(code, said)
    assert code == 2, tree
    return said


def test_a_contradiction_is_refused_by_the_names_of_both_its_keys(files: Path) -> None:
    met: set[str] = set()

    @settings(max_examples=300)
    @given(contradictory())
    def one(case: tuple[dict[str, Any], Contradiction]) -> None:
        tree, wrong = case
        (line,) = refused(files, tree).splitlines()
        assert all(name in line for name in wrong.names), (wrong.names, line)
        met.add(str(wrong.names))

    for wrong in CONTRADICTIONS:
        tree = plain_ppo()
        for key, value in wrong.settings.items():
            put(tree, key, value)
        (line,) = refused(files, tree).splitlines()
        assert all(name in line for name in wrong.names), (wrong.names, line)
    one()
    assert len(met) > len(CONTRADICTIONS) / 2


def test_the_config_of_the_contradictions_stands_without_them(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(cli, "require_runnable", begin)
    path = files / "config.yaml"
    path.write_text(yaml.safe_dump(plain_ppo()), encoding="utf-8")
    assert say("ppo", str(path)) == (0, "")


@settings(max_examples=300)
@given(text=st.binary(max_size=60) | st.text(alphabet="{}[]:-&*!|>%@`\"' \n\tab\x00", max_size=40).map(str.encode))
def test_any_bytes_are_a_config_or_no_config(files: Path, text: bytes) -> None:
    path = files / "bytes.yaml"
    path.write_bytes(text)
    code, said = say("data", str(path), "output=")
    require_sentences(code, said)
    assert code == 2


@settings(max_examples=400)
@given(word=st.text(max_size=12), value=st.text(max_size=12) | st.sampled_from(ODD).map(str))
def test_any_override_is_taken_or_refused_in_sentences(files: Path, word: str, value: str) -> None:
    code, said = say("ppo", f"{word}={value}")
    require_sentences(code, said)
    assert code == 2  # of a run that has no policy, whatever else is said
