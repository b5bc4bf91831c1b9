"""The sentence that says why machines of namespaces cannot be made here."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.cluster.machines import lacking


def as_root_with(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    """As if root, on a machine without these commands."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool in missing else f"/usr/bin/{tool}")


def tried(monkeypatch: pytest.MonkeyPatch, code: int, said: str) -> None:
    """As if the trial of a namespace ended so."""
    done = subprocess.CompletedProcess([], code, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *words, **options: done)


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert lacking() == "machines of namespaces need root"


@pytest.mark.parametrize("missing", [("ip",), ("ip", "nsenter")])
def test_commands_that_are_missing_are_named_with_their_packages(
    missing: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root_with(monkeypatch, *missing)
    assert lacking() == (
        f"machines of namespaces need the commands {', '.join(missing)} (Debian: iproute2, util-linux)"
    )


def test_what_the_kernel_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root_with(monkeypatch)
    tried(monkeypatch, 1, "unshare: unshare failed: Operation not permitted\n")
    assert lacking() == "this machine makes no namespaces: unshare: unshare failed: Operation not permitted"


def test_nothing_is_lacking_where_a_namespace_was_made(monkeypatch: pytest.MonkeyPatch) -> None:
    as_root_with(monkeypatch)
    tried(monkeypatch, 0, "")
    assert lacking() is None
