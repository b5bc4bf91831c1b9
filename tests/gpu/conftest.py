"""Models for the GPU tests. Everything in this folder is marked `gpu` and skipped where there is no CUDA device."""

from __future__ import annotations

import pytest

from tests.gpu.roles import World, build_world


@pytest.fixture(scope="session")
def tied_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("tied"), tied=True)


@pytest.fixture(scope="session")
def untied_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("untied"), tied=False)


@pytest.fixture(params=["tied", "untied"])
def world(request: pytest.FixtureRequest) -> World:
    return request.getfixturevalue(f"{request.param}_world")
