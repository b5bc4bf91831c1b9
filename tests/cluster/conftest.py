"""A cluster of several machines for a file of tests, and the project as its jobs upload it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import Cluster, hosts
from tests.cluster.jobs import checkout
from tests.cluster.machines import lacking


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head and two workers of two CPUs."""
    reason = lacking()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    with hosts(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is uploaded."""
    return checkout(tmp_path_factory.mktemp("checkout"))
