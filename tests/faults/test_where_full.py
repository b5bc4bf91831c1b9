"""What is said of a disk without room, wherever it was met."""

from __future__ import annotations

import errno
import os

import pytest
from ray.exceptions import ActorDiedError, ObjectStoreFullError, OutOfDiskError, RayError, RayTaskError

from actors.recovery import Losses
from rlhf import cli
from rlhf.errors import ResourceError
from rlhf.full_disk import full_store, where_full
from rlhf.interfaces import Position
from tests.ppo import fakes

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/run/transcripts/step_000001.jsonl")
NO_QUOTA = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
NO_STORE = ObjectStoreFullError(
    "Failed to put object 00ff in object store because it is full. Object size is 2147483648 bytes."
)
NO_SPILLING = OutOfDiskError("Local disk is full")  # as `ray.put` raises it
NEVER_MADE = OutOfDiskError("00ff", b"owner", "call site")  # as `ray.get` raises it, of an object that was not made


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


def died(cause: RayError) -> ActorDiedError:
    """Of an actor that could not store what it returns; then Ray keeps no more than its words."""
    error = ActorDiedError()
    error.error_msg = (
        "The actor died unexpectedly before finishing this task.\n\tclass_name: PolicyProcess\n\tname: policy[0]\n"
        "Worker exits with an exit code None. Traceback (most recent call last):\n  File \"python/ray/_raylet.pyx\"\n"
        f"ray.exceptions.{type(cause).__name__}: {cause}\nAn unexpected internal error occurred while the worker was "
        f"executing a task."
    )
    return error


REMEDY = (
    "set cluster.object_store_gib higher (of a running cluster, object-store-memory of 'ray start' on its nodes), and "
    "run the same command"
)
STORE = f"Ray's object store is full, in /dev/shm of a node; {REMEDY}"
SPILLING = (
    "Ray's object store is full, and so is the disk of its session directory, where it spills objects until 95% are in "
    f"use (/tmp/ray of a node, or below RAY_TMPDIR); free some there, or {REMEDY}"
)
WRAPPED = [lambda error: error, from_an_actor, lambda error: from_an_actor(from_an_actor(error)), died]


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize(("error", "said"), [(NO_STORE, STORE), (NO_SPILLING, SPILLING), (NEVER_MADE, SPILLING)])
def test_a_full_object_store_is_a_sentence(
    wrapped, error: RayError, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def command() -> None:
        raise wrapped(error)

    assert full_store(wrapped(error)) == said and where_full(wrapped(error)) is None
    monkeypatch.setattr(cli, "command_line", lambda: lambda **_: command())
    with pytest.raises(SystemExit) as ended:
        cli.main(["ppo"])
    assert ended.value.code == cli.USER_ERROR and capsys.readouterr().err == f"rlhf: {said}\n"


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_a_run_with_a_full_object_store_is_not_started_again(wrapped) -> None:
    losses = Losses(pytest.fail, "going on", fakes.config())
    with pytest.raises(ResourceError) as refused:
        losses.survive(wrapped(NO_SPILLING), Position(12, "update"), None)
    assert str(refused.value) == f"step 12, update: {SPILLING}"


def test_what_only_speaks_of_a_full_object_store_is_none() -> None:
    assert full_store(from_an_actor(ValueError("raised where OutOfDiskError is told of"))) is None
    assert full_store(NO_SPACE) is None and full_store(None) is None
