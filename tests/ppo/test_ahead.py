"""Rollouts before their time: which weights sample what, whatever takes how long, and what a checkpoint keeps."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlhf.interfaces import Collected, Nothing
from rlhf.ppo.ahead import AfterRollouts, Ahead
from rlhf.ppo.collect import NothingAhead
from tests.limits import HANG_S


@dataclass
class Slow(NothingAhead):
    """Collects, step 1 not before `go` is set; notes (step, version, prompts used)."""

    go: threading.Event = field(default_factory=threading.Event)
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    fails_at: int | None = None

    def __post_init__(self) -> None:
        self.go.set()

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        assert step != 1 or self.go.wait(HANG_S)
        self.asked.append((step, version, prompts_used))
        if step == self.fails_at:
            raise RuntimeError(f"lost at {step}")
        return Collected(f"rollout {step}", f"scores {step}", prompts_used + 10 + step, {})


@dataclass
class Shelf:
    """Keeps what is written under its file's name."""

    kept: dict[Path, Collected] = field(default_factory=dict)

    def write(self, path: Path, step: int, collected: Collected) -> Nothing:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        self.kept[Path(path.name)] = collected
        return Nothing()

    def read(self, path: Path) -> Collected:
        return self.kept[Path(path.name)]


@dataclass
class Sync:
    """Notes which rollouts had been drawn when weights were published."""

    inner: Slow
    drawn: list[int] = field(default_factory=list)

    def publish(self, version: int) -> Nothing:
        self.drawn.append(len(self.inner.asked))
        return Nothing()


def run(ahead: Ahead, sync: AfterRollouts, steps: range, used: int = 0) -> list[Collected]:
    """What a loop does with a collector."""
    found = []
    for step in steps:
        sync.publish(step)
        found.append(ahead.collect(step, step, used))
        used = found[-1].prompts_used
    return found


@pytest.mark.parametrize("staleness", [1, 2, 3])
def test_a_step_trains_on_what_older_weights_sampled(staleness: int) -> None:
    inner = Slow()
    ahead = Ahead(inner, staleness, 8, Shelf())
    sync = Sync(inner)
    found = run(ahead, AfterRollouts(sync, ahead), range(8))
    assert [each.rollout for each in found] == [f"rollout {step}" for step in range(8)]
    assert [(step, version) for step, version, _ in inner.asked] == [(k, max(0, k - staleness)) for k in range(8)]
    # Prompts follow each other as they do when nothing is ahead; nothing is drawn for steps that never come.
    assert [used for *_, used in inner.asked] == [10 * k + sum(range(k)) for k in range(8)]
    # Weights change only when all that was begun is done.
    assert sync.drawn == [0, *(min(8, step + 1 + staleness) for step in range(7))]


def test_the_next_rollout_is_under_way_while_a_step_trains() -> None:
    inner = Slow()
    ahead = Ahead(inner, 1, 3, Shelf())
    inner.go.clear()
    assert ahead.collect(0, 0, 0).rollout == "rollout 0"  # although the next one hangs
    inner.go.set()
    ahead.finish()
    assert [step for step, *_ in inner.asked] == [0, 1]


def test_what_goes_wrong_ahead_is_raised_at_the_next_turn() -> None:
    inner = Slow(fails_at=1)
    ahead = Ahead(inner, 1, 3, Shelf())
    assert ahead.collect(0, 0, 0).rollout == "rollout 0"
    with pytest.raises(RuntimeError, match="lost at 1"):
        AfterRollouts(Sync(inner), ahead).publish(1)


@pytest.mark.parametrize("staleness", [1, 3])
def test_a_run_that_was_killed_trains_on_the_same_rollouts(tmp_path: Path, staleness: int) -> None:
    whole, shelf = Slow(), Shelf()
    ahead = Ahead(whole, staleness, 9, shelf)
    wanted = run(ahead, AfterRollouts(Sync(whole), ahead), range(9))
    before, after = Slow(), Slow()
    ahead = Ahead(before, staleness, 9, shelf)
    found = run(ahead, AfterRollouts(Sync(before), ahead), range(4))
    ahead.save(tmp_path / "rollouts").get()
    again = Ahead(after, staleness, 9, shelf)
    again.load(tmp_path / "rollouts")
    found += run(again, AfterRollouts(Sync(after), again), range(4, 9), found[-1].prompts_used)
    assert found == wanted
    assert before.asked[: 4 + staleness] + after.asked == whole.asked


def test_a_checkpoint_without_rollouts_starts_with_new_ones(tmp_path: Path) -> None:
    inner = Slow()
    ahead = Ahead(inner, 1, 9, Shelf())
    ahead.load(tmp_path / "rollouts")
    assert ahead.collect(3, 3, 33).rollout == "rollout 3"
    ahead.finish()
    assert inner.asked == [(3, 3, 33), (4, 3, 46)]
