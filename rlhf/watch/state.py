"""What a run directory says of its stages at one moment."""

from __future__ import annotations

import math
import os
import socket
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf.artifacts import MANIFEST
from rlhf.context import work_of
from rlhf.errors import RunError
from rlhf.events import EVENTS
from rlhf.lock import LOCK, holder_in
from rlhf.watch.files import Growing, changed_at, names_in, number, read_content, read_mapping, read_object, text

State = Literal["finished", "running", "stopped", "waiting"]
CONFIG, METRICS, WORK = "config.yaml", "metrics.jsonl", ".work"
_RECENT = 10  # steps whose median time foretells the rest


@dataclass(frozen=True)
class Seen:
    """A stage at one moment. `rows` are those of its metrics; `total` the steps to be done, where it has steps.

    `owner` is who runs it; `restarts` counts how often it was begun anew; `changed` is when its metrics last grew,
    seconds since 1970.
    """

    name: str
    state: State
    owner: str = ""
    rows: Sequence[Mapping[str, Any]] = ()
    events: Sequence[Mapping[str, Any]] = ()
    checkpoint: Path | None = None
    changed: float | None = None
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps done."""
        steps = [step for step in self.column("step") if math.isfinite(step)]
        return int(steps[-1]) if steps else 0

    @property
    def total(self) -> int | None:
        """Steps to be done, where the stage has said it."""
        said = self._said("total")
        return int(said[-1][0]) if said else None

    @property
    def restarts(self) -> int:
        """How often it was begun anew."""
        return max(0, sum("begins_after" in event for event in self.events) - 1)

    @property
    def notes(self) -> list[tuple[float, str]]:
        """What it has said, with the time, oldest first."""
        return [(number(event.get("time")) or 0.0, text(event["note"])) for event in self.events if "note" in event]

    def column(self, name: str) -> list[float]:
        """The numbers of that name, one per row that has it."""
        values = (number(row.get(name)) for row in self.rows)
        return [value for value in values if value is not None]

    def seconds_per_step(self) -> float | None:
        """By the newest steps, else by the rows since the stage said how many steps there are."""
        times = self.column("time/step")[-_RECENT:]
        if times:
            return statistics.median(times)
        said = self._said("done", "time", "total")
        if not said or self.changed is None or self.step <= said[-1][0]:
            return None
        done, when, _ = said[-1]
        return max(0.0, self.changed - when) / (self.step - done)

    def seconds_left(self) -> float | None:
        """Until the last step, as far as can be told."""
        each = self.seconds_per_step()
        return None if each is None or self.total is None else each * max(0, self.total - self.step)

    def _said(self, *names: str) -> list[list[float]]:
        """These numbers of every event that has them all."""
        found = ([number(event.get(name)) for name in names] for event in self.events)
        return [each for each in found if all(value is not None and math.isfinite(value) for value in each)]


class Watched:
    """A run directory that is looked at again and again. Raises RunError when it is none.

    It may be that of a pipeline, the output of one stage, or a directory with outputs in it.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self._files: dict[Path, Growing] = {}
        if not self.outputs():
            raise RunError(
                f"{run}: {'no run in it' if run.is_dir() else 'no such directory'}; give a pipeline's run directory, "
                f"or the output of a stage"
            )

    def outputs(self) -> list[Path]:
        """Where the stages publish, in their order."""
        stages = read_mapping(self.run / CONFIG).get("stages")
        if isinstance(stages, Mapping):
            return [_output(self.run, text(name), section) for name, section in stages.items()]
        own = self.run.with_name(self.run.name.removesuffix(WORK))
        if work_of(own).is_dir() or (own / MANIFEST).is_file():
            return [own]
        names = [name.removesuffix(WORK) for name in names_in(self.run) if not name.startswith(".")]
        found = [self.run / name for name in dict.fromkeys(names)]
        return [path for path in found if work_of(path).is_dir() or (path / MANIFEST).is_file()]

    def look(self) -> list[Seen]:
        """Every stage as it is now."""
        return [self._seen(output) for output in self.outputs()]

    def _seen(self, output: Path) -> Seen:
        work, manifest = work_of(output), read_object(output / MANIFEST)
        state, owner = _state(work, bool(manifest))
        places = [work / METRICS, output / METRICS]
        rows = next(((path, found) for path in places if (found := self._rows(path))), (places[0], []))
        return Seen(
            output.name, state, owner, rows[1], self._rows(work / EVENTS), newest_checkpoint(work),
            changed_at(rows[0]), manifest.get("metrics") or {},
        )

    def _rows(self, path: Path) -> list[dict[str, Any]]:
        return self._files.setdefault(path, Growing(path)).refresh()


def _output(run: Path, name: str, section: Any) -> Path:
    own = section.get("output") if isinstance(section, Mapping) else None
    return Path(own) if isinstance(own, str) else run / name


def _state(work: Path, published: bool) -> tuple[State, str]:
    """A lock file names its holder; on another machine nobody can tell whether the holder still lives."""
    holder = holder_in(read_content(work / LOCK))
    if holder is not None and (holder.host != socket.gethostname() or _lives(holder.pid)):
        return "running", holder.described("%H:%M:%S")
    if published:
        return "finished", ""
    return ("stopped", "the same command goes on") if names_in(work) else ("waiting", "")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def newest_checkpoint(work: Path) -> Path | None:
    """The newest checkpoint below a work directory, of PPO or of Ray Train; not verified."""
    places = [work / "checkpoints", *(work / "ray_train" / name for name in names_in(work / "ray_train"))]
    found = [place / name for place in places for name in names_in(place) if name.startswith(("step_", "checkpoint_"))]
    return max(found, key=lambda path: changed_at(path) or 0.0, default=None)
