"""What `rlhf checkpoints` shows: the checkpoints of a run, each verified."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.context import work_of
from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig
from rlhf.training import shares, snapshot
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.disk import mib, size_of
from rlhf.training.seal import DAMAGED, contents, damage, foreign


@dataclass(frozen=True)
class Listed:
    """A checkpoint: what is wrong with it (None: nothing), the numbers of its step, and what it is to the run."""

    path: Path
    size: int
    wrong: str | None
    numbers: Mapping[str, float]
    marks: Sequence[str] = ()
    step: int | None = None  # where the name does not say it

    def line(self, metric: str | None) -> str:
        """One line of the list."""
        step = "" if self.step is None else f"  step {self.step}"
        known = metric in self.numbers and self.numbers[metric] != snapshot.WORST
        shown = f"  {metric} {self.numbers[metric]:.4g}" if known else ""
        state = self.wrong or ", ".join(["sound", *self.marks])
        return f"{self.path.name}{step}  {mib(self.size)}{shown}  {state}"


def work_directory(run: Path) -> Path:
    """Where the run keeps its checkpoints: `run` is its output, its work directory, or a pipeline's run directory,
    which stands for its PPO stage.

    Raises RunError when there is none.
    """
    places = [run, work_of(run), work_of(run / "ppo")]
    for place in places:
        if (place / "checkpoints").is_dir() or newest_attempt(place) is not None:
            return place
    raise RunError(
        f"{run}: no checkpoints there; give the output of a PPO, pretraining, SFT or reward model run, or the run "
        f"directory of a pipeline with PPO"
    )


def newest_attempt(work: Path) -> Path | None:
    """The newest attempt's directory of a Ray Train job; None: there is none in this work directory."""
    found = [path for path in (work / "ray_train").glob("*.*/") if path.suffix.removeprefix(".").isdecimal()]
    return max(found, key=lambda path: int(path.suffix.removeprefix(".")), default=None)


def checkpoints_of_job(attempt: Path) -> Iterator[Listed]:
    """Every checkpoint that a Ray Train job keeps, oldest first, after reading every byte of it."""
    kept = snapshot.staying(snapshot.saved(attempt))
    seen = [(saved, listed) for saved in kept if (listed := _look_at_shares(attempt / saved.name, saved)) is not None]
    sound = [saved for saved, listed in seen if listed.wrong is None]
    best = snapshot.best(sound)
    for saved, listed in seen:
        marks = [mark for mark, marked in (("newest", sound[-1:]), ("best", [best])) if saved in marked]
        yield replace(listed, marks=marks)


def _look_at_shares(path: Path, saved: snapshot.Saved) -> Listed | None:
    """None: it is not there any more."""
    found = shares.damage(path)
    wrong = None if found is None else f"damaged: {found}"
    try:
        listed = Listed(path, size_of(path), wrong, saved.numbers, step=saved.step)
    except OSError:
        if path.is_dir():
            raise
        return None
    return listed if path.is_dir() else None


def checkpoints_of(work: Path, config: PPOConfig) -> Iterator[Listed]:
    """Every checkpoint, oldest first, after reading every byte of it. One that the run deletes meanwhile is none."""
    found = DirectoryCheckpoints(work / "checkpoints", Keeping(config.keep_checkpoints, config.best_checkpoint))
    seen = [listed for path in found.published() if (listed := _look_at(path)) is not None]
    sound = [listed for listed in seen if listed.wrong is None]
    metric = config.best_checkpoint
    scored = [listed for listed in sound if metric in listed.numbers]
    best = max(reversed(scored), key=lambda listed: listed.numbers[metric], default=None)  # of equals, the newer
    for listed in seen:
        marks = [mark for mark, marked in (("newest", sound[-1:]), ("best", [best])) if listed in marked]
        yield replace(listed, marks=marks)


def _look_at(path: Path) -> Listed | None:
    """None: it is not there any more. A checkpoint loses its name before anything of it is deleted."""
    try:
        found = damage(path)
        wrong = f"damaged: {found}" if found is not None else foreign(path)
        listed = Listed(path, size_of(path), wrong, {} if wrong is not None else contents(path)["numbers"])
    except (OSError, ValueError):
        if path.is_dir():
            raise
        return None
    return listed if path.is_dir() else None


def passed_over(directory: Path) -> list[Listed]:
    """What runs found damaged there, and renamed: nothing reads it any more."""
    found = [_look_aside(path) for path in sorted(directory.glob(f"{DAMAGED}*_*/"))]
    return [listed for listed in found if listed is not None]


def _look_aside(path: Path) -> Listed | None:
    """None: it is not there any more."""
    try:
        return Listed(path, size_of(path), "damaged: passed over by a run", {})
    except OSError:
        if path.is_dir():
            raise
        return None
