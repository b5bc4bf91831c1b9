"""A reward function runs without our secrets, is ended when it does not answer, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.rewards.config import RewardModelConfig
from rlhf.rewards.function import FunctionScorer
from rlhf.rewards.limits import limits_of
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.rewards.scorers import scorer_of
from tests.limits import HANG_S, wait_until

SOURCE = """
import os, re, signal, subprocess, sys, time

def length(sample):
    return len(sample.response)

def answer(sample):
    return sample.task["answer"] if sample.finished else None

def variables(sample):
    print("heard", sample.response)
    return float(sample.response in os.environ)

def raw(sample):  # what the kernel keeps of the environment that a process began with
    return float(sample.response.encode() in open("/proc/self/environ", "rb").read())

def moody(sample):
    if sample.response == "hang":
        time.sleep(600)
    if sample.response == "regex":  # holds the interpreter's lock
        re.match("(a+)+$", "a" * 60 + "b")
    if sample.response == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", sample.prompt])
        time.sleep(600)
    if sample.response == "die":
        os.kill(os.getpid(), signal.SIGSEGV)
    if sample.response == "exit":
        sys.exit(3)
    return os.getpid()

def stuck(sample):
    re.match("(a+)+$", "a" * 60 + "b")
"""


def samples(*responses: str, **changes: Any) -> list[RewardSample]:
    return [RewardSample(str(k), "?", [], response, **changes) for k, response in enumerate(responses)]


@pytest.fixture
def scorer(tmp_path: Path) -> Any:
    made: list[FunctionScorer] = []

    def make(function: str, others: dict[str, Any] | None = None, source: str = SOURCE, **changes: Any) -> Any:
        path = tmp_path / "mine.py"
        path.write_text(source)
        part = {"kind": "function", "file": str(path), "function": function, **changes}
        config = validate(RewardModelConfig, {"parts": {"it": part, **(others or {})}})
        made.append(scorer_of(config.parts["it"], "reward.parts.it", limits_of(config)))
        return made[-1]

    yield make
    for each in made:
        each.close()


def gone(pid: int, within_s: float = HANG_S) -> bool:
    """Whether a process ends in time; one that nobody has waited for counts as ended."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_scores_are_what_the_function_returns(scorer: Callable) -> None:
    assert scorer("length")(samples("", "ab", "é 请")) == [0.0, 2.0, 3.0]
    odd = 0.1 + 0.2
    assert scorer("answer")(samples("x", task={"answer": odd})) == [odd]
    (failed,) = scorer("answer")(samples("x", finished=False))
    assert failed == Failure("answered None, which is no number")
    (failed,) = scorer("answer")(samples("x"))
    assert failed == Failure("raised TypeError: 'NoneType' object is not subscriptable")
    (failed,) = scorer("answer")(samples("x", task={"answer": {1}}))
    assert "cannot be given to the function: Object of type set" in failed.reason


def test_secrets_are_not_among_its_variables(scorer: Callable, monkeypatch, capfd) -> None:
    names = ["HF_TOKEN", "MY_API_KEY", "AWS_REGION", "RAY_AUTH_TOKEN", "DB_PASSWORD", "JUDGE", "PROXY"]
    kept = ["WANTED_TOKEN", "FINE", "PATH"]
    for name in (*names[:-1], *kept[:-1]):
        monkeypatch.setenv(name, "planted")
    monkeypatch.setenv("PROXY", "http://me:planted@proxy.example")
    judge = {"judge": {"kind": "http", "url": "http://127.0.0.1:1/", "token_env": "JUDGE"}}
    for function in ("variables", "raw"):
        found = scorer(function, judge, pass_env=["WANTED_TOKEN"])(samples(*names, *kept))
        assert found == [0.0] * len(names) + [1.0] * len(kept)
    assert "heard FINE" in capfd.readouterr().out  # what it prints stays visible
    with pytest.raises(ConfigError, match=r"reward\.parts\.it\.function: pass_env names NOT_THERE"):
        scorer("length", pass_env=["NOT_THERE"])


@pytest.mark.parametrize(
    ("response", "timeout_s", "said"),
    [
        ("hang", 3.0, "the function did not answer within 3 s"),
        ("regex", 3.0, "the function did not answer within 3 s"),
        ("die", HANG_S, "the function ended (signal SIGSEGV)"), ("exit", HANG_S, "the function ended (exit code 3)"),
    ],
)
def test_a_call_that_does_not_come_back_fails_alone(
    scorer: Callable, response: str, timeout_s: float, said: str
) -> None:
    first, failed, second = scorer("moody", timeout_s=timeout_s)(samples("a", response, "b"))
    assert failed == Failure(said)
    assert first != second and gone(int(first)) and not gone(int(second), 0.1)


def test_a_batch_that_hangs_is_given_up(scorer: Callable) -> None:
    found = scorer("moody", timeout_s=0.3)(samples(*["hang"] * 40))
    assert [each.reason for each in found[:4]] == ["the function did not answer within 0.3 s"] * 3 + [
        "was not asked: 3 calls before it did not come to their end"
    ]
    assert len(found) == 40


def test_what_the_function_has_started_ends_with_it(scorer: Callable, tmp_path: Path) -> None:
    def sleepers() -> list[int]:
        found = psutil.process_iter(["pid", "cmdline"])
        return [each.pid for each in found if each.info["cmdline"] and each.info["cmdline"][-1] == str(tmp_path)]

    sample = RewardSample("0", str(tmp_path), [], "child")
    asked = threading.Thread(target=scorer("moody", timeout_s=10.0), args=([sample],))
    asked.start()
    wait_until(sleepers, asked.is_alive)
    wait_until(lambda: not sleepers())
    asked.join()


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_asks_it(tmp_path: Path, ending: signal.Signals) -> None:
    """Also while it holds the interpreter's lock, so that no code of ours could notice."""
    (tmp_path / "mine.py").write_text(SOURCE)
    program = f"""
from rlhf.config import validate
from rlhf.rewards.config import FunctionReward
from rlhf.rewards.function import function_scorer
from rlhf.rewards.limits import Limits
from rlhf.rewards.sample import RewardSample
part = validate(FunctionReward, {{"kind": "function", "file": {str(tmp_path / "mine.py")!r}, "function": "stuck"}})
scorer = function_scorer(part, "it", Limits())
print(scorer.guest.process.pid, flush=True)
scorer([RewardSample("0", "?", [], "x")])
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    guest = int(owner.stdout.readline())
    time.sleep(0.5)
    assert not gone(guest, 0.1)
    os.kill(owner.pid, ending)
    owner.wait()
    owner.stdout.close()
    assert gone(guest)


@pytest.mark.parametrize(
    ("source", "function", "said"),
    [
        ("x = 1", "score", r"it\.function: .*mine\.py holds no function or class 'score' \(it holds: none\)"),
        ("1/0", "score", r"mine\.py cannot be imported: ZeroDivisionError: division by zero"),
        ("import os; os._exit(7)", "score", r"while 'score' was imported, its process ended \(exit code 7\)"),
    ],
)
def test_what_cannot_be_had_is_said(scorer: Callable, source: str, function: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scorer(function, source=source)
