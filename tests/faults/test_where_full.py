"""What is said of a disk without room, wherever it was met."""

from __future__ import annotations

import errno
import os

import pytest
from ray.exceptions import RayTaskError

from rlhf import cli
from rlhf.full_disk import where_full

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/transcripts/step_000001.jsonl")
NO_QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def from_an_actor(cause: Exception) -> RayTaskError:
    """As `ray.get` raises it: of the class of its cause, too, where that can be."""
    said = f"ray::policy[0]\n{type(cause).__name__}: {cause}"
    return RayTaskError("PolicyProcess.export", said, cause, "policy[0]", 1, "127.0.0.1").as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (NO_SPACE, NO_SPACE.filename), (NO_QUOTA, "while writing"),
        (from_an_actor(NO_SPACE), NO_SPACE.filename), (from_an_actor(from_an_actor(NO_SPACE)), NO_SPACE.filename),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "while writing"),
        (FileNotFoundError(errno.ENOENT, "gone", "x"), None), (from_an_actor(PermissionError(1, "no", "x")), None),
        (from_an_actor(ValueError("ours")), None),
    ],
)
def test_the_file_is_found(error: Exception, expected: str | None) -> None:
    assert where_full(error) == expected


def test_the_command_says_it_in_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    """Ray's error of an OSError is one itself, without errno or file name."""
    error = from_an_actor(NO_SPACE)
    assert isinstance(error, OSError) and error.errno is None

    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "command_line", lambda: lambda **_: command())
    with pytest.raises(SystemExit) as ended:
        cli.main(["ppo"])
    assert ended.value.code == cli.USER_ERROR
    said = f"rlhf: no room left on the disk ({NO_SPACE.filename}); free some, and run the same command\n"
    assert capsys.readouterr().err == said
