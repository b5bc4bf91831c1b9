"""An unfinished run may be gone on from over other resources, and not under another config."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from actors import claim as claiming
from actors.claim import claim, release
from rlhf.context import RunContext
from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig
from rlhf.progress import LineProgress
from tests.ppo import fakes


def claimed(root: Path, taken: Callable[[], None] = lambda: None, **changes: object) -> Path:
    config: PPOConfig = fakes.config(**changes)
    context = RunContext("ppo", root / "ppo", "hash", {"prompts": "abc"}, LineProgress(), taken)
    claim(context, config)
    return context.work


@pytest.mark.parametrize("state", ["checkpoints/step_000002", "rollouts/step_000001.parquet"])
def test_other_resources_are_the_same_run_and_other_steps_are_not(tmp_path: Path, state: str) -> None:
    work = claimed(tmp_path)
    (work / state).mkdir(parents=True)
    before = json.loads((work / "claim.json").read_text())
    policy = {"model": "somewhere", "resources": {"ranks": 2, "strategy": "SPREAD"}, "micro_batch_tokens": 77}
    alike = {"policy": policy, "deadline_s": 5.0, "not_finite": {"kind": "skip"}}
    assert claimed(tmp_path, **alike) == work and (work / state).is_dir()
    with pytest.raises(RunError, match="holds an unfinished run that differs in steps; give this run another output"):
        claimed(tmp_path, steps=99)
    assert (work / state).is_dir() and json.loads((work / "claim.json").read_text()) == before


def test_a_run_that_has_kept_nothing_gives_way(tmp_path: Path) -> None:
    work = claimed(tmp_path)
    (work / "metrics.jsonl").write_text("")
    claimed(tmp_path, steps=99)
    assert not (work / "metrics.jsonl").exists()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe{", b"[1, 2]", b"{}", b'{"config": 1, "inputs": {}}', b"null"])
def test_a_claim_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    path = claimed(tmp_path) / "claim.json"
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"claim\.json: damaged, so it is not known whose run this is; delete "):
        claimed(tmp_path)
    assert path.read_bytes() == content


def test_it_is_told_when_the_directory_has_become_the_runs_own(tmp_path: Path) -> None:
    told: list[str] = []
    work = claimed(tmp_path, lambda: told.append("first"))
    (work / "checkpoints" / "step_000002").mkdir(parents=True)
    claimed(tmp_path, lambda: told.append("again"))
    with pytest.raises(RunError, match="differs in steps"):
        claimed(tmp_path, lambda: told.append("refused"), steps=99)
    assert told == ["first", "again"]


def test_whenever_the_discarding_is_interrupted_the_rest_is_still_another_runs(tmp_path: Path, monkeypatch) -> None:
    """A kill before each deletion; the same command again discards what is left."""
    for survived in range(5):
        root = tmp_path / str(survived)
        work = claimed(root)
        for name in ("a/step", "checkpoints/step_000002", "z/step"):
            (work / name).mkdir(parents=True)
        (work / "metrics.jsonl").write_text("")
        release(work)
        with monkeypatch.context() as patch, suppress(Killed):
            dies_after(survived, patch)
            claimed(root, steps=99)
        claimed(root, steps=99)
        assert {path.name for path in work.iterdir()} == {"claim.json"}, survived
        assert json.loads((work / "claim.json").read_text())["config"]["steps"] == 99


class Killed(BaseException):
    """The process ends here."""


def dies_after(operations: int, patch: pytest.MonkeyPatch) -> None:
    left = [operations]

    def counted(whole: Callable[..., None]) -> Callable[..., None]:
        def does(*arguments: object, **options: object) -> None:
            if not left[0]:
                raise Killed
            left[0] -= 1
            whole(*arguments, **options)

        return does

    patch.setattr(claiming.shutil, "rmtree", counted(shutil.rmtree))
    patch.setattr(Path, "unlink", counted(Path.unlink))
