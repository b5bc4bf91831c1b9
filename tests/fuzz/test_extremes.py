"""The largest number that each key of each config takes is one that what it is for can take, too."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import numpy
import pytest
import torch
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from rlhf.cli import STAGES, load_object
from rlhf.config import LARGEST_SEED, Config, models_in
from rlhf.pipeline import PipelineConfig
from rlhf.rewards.config import HttpReward
from rlhf.rewards.http import LONGEST_WAIT_S
from rlhf.roles import Resources
from rlhf.schema import file_schema
from rlhf.stage import ClusterConfig
from rlhf.training.config import WorkersConfig

UNBOUNDED = 2**80
GIB = 2**30
Key = tuple[type[Config], str]


def sections() -> list[type[Config]]:
    """Every section that a config of a stage or a pipeline may have."""
    found: dict[type, None] = {}
    waiting: list[Any] = [PipelineConfig, *(load_object(stage.config) for stage in STAGES.values())]
    while waiting:
        section = waiting.pop()
        if section not in found:
            found[section] = None
            waiting += [inner for field in section.model_fields.values() for inner in models_in(field.annotation)]
    return sorted(found, key=lambda section: section.__name__)


def leaves(annotation: Any) -> Iterator[Any]:
    """The types within one, those of lists and unions among them."""
    yield annotation
    for part in get_args(annotation):
        yield from leaves(part)


def keys() -> Iterator[Key]:
    """Those that hold a whole number or a time."""
    for section in sections():
        for name, field in section.model_fields.items():
            kinds = set(leaves(field.annotation)) if not models_in(field.annotation) else set()
            if int in kinds or (float in kinds and name.endswith("_s")):
                yield section, name


def takes(section: type[Config], name: str, value: float) -> bool:
    """Whether nothing is said against a value, whatever else the section lacks."""
    try:
        section.model_validate({name: value})
    except ValidationError as error:
        return all(problem["loc"][:1] != (name,) for problem in error.errors())
    return True


@cache
def largest(section: type[Config], name: str) -> int:
    """The largest whole number that a key takes."""
    low = max((2**power for power in range(81) if takes(section, name, 2**power)), default=0)
    assert 0 < low < UNBOUNDED, f"{section.__name__}.{name} takes {'numbers of any size' if low else 'no number'}"
    high = 2 * low
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(section, name, middle) else (low, middle)
    return low


KEYS = list(keys())
TIMES = [key for key in KEYS if key[1].endswith("_s")]
SEEDS = [key for key in KEYS if key[1] == "seed"]
NUMBERS = [key for key in KEYS if key not in TIMES and key not in SEEDS]
THREADS = [(Resources, "threads"), (Resources, "cpus"), (WorkersConfig, "cpus")]


def test_the_keys_are_found() -> None:
    """One of each kind, and about as many as there are."""
    assert {(PipelineConfig, "seed"), (Resources, "ranks"), (Resources, "threads")} <= set(KEYS)
    assert {name for _, name in TIMES} >= {"deadline_s", "replacement_s", "timeout_s", "backoff_s"}
    assert len(NUMBERS) > 80


@pytest.mark.parametrize(("section", "name"), TIMES)
def test_the_longest_time_can_be_waited_for(section: type[Config], name: str) -> None:
    """By locks, sockets and event loops: each gives up when it is told to, not when it hears how long."""
    seconds = float(largest(section, name))
    assert seconds <= threading.TIMEOUT_MAX
    told = threading.Event()
    threading.Timer(0.01, told.set).start()
    assert told.wait(seconds)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(seconds)
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"
    asyncio.run(asyncio.wait_for(asyncio.sleep(0.001), seconds))


@pytest.mark.parametrize(("section", "name"), SEEDS)
def test_the_largest_seed_can_be_sown(section: type[Config], name: str) -> None:
    """By numpy as it is, by torch also with an epoch on top (`rlhf/training/order.py`)."""
    seed = largest(section, name)
    assert seed == LARGEST_SEED
    numpy.random.RandomState(seed)
    torch.Generator().manual_seed(seed + 2**31)


@pytest.mark.parametrize(("section", "name"), NUMBERS)
def test_the_largest_number_is_one_of_c(section: type[Config], name: str) -> None:
    assert torch.tensor(largest(section, name), dtype=torch.int32) > 0


@pytest.mark.parametrize(("section", "name"), THREADS)
def test_so_many_threads_can_be_set(section: type[Config], name: str) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(largest(section, name))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("section", "name", "unit"),
    [(ClusterConfig, "object_store_gib", GIB), (Resources, "cpus", 10_000), (Resources, "gpus", 10_000)],
)
def test_what_ray_counts_in_parts_fits_its_numbers(section: type[Config], name: str, unit: int) -> None:
    """Bytes of memory, and ten-thousandths of a resource."""
    struct.pack("q", int(float(largest(section, name)) * unit))


def test_the_last_of_so_many_waits_can_be_computed() -> None:
    """As `rlhf.rewards.http` does."""
    retries, backoff_s = largest(HttpReward, "retries"), float(largest(HttpReward, "backoff_s"))
    assert min(LONGEST_WAIT_S, backoff_s * 2**retries) == LONGEST_WAIT_S


@pytest.mark.parametrize(("section", "name"), KEYS)
def test_a_schema_has_the_same_bound(section: type[Config], name: str) -> None:
    schema = Draft202012Validator(file_schema(section))
    most = largest(section, name)
    assert schema.is_valid({name: most}) and not schema.is_valid({name: most + 1})
