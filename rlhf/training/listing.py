"""What `rlhf checkpoints` shows: the checkpoints of a run, each verified."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.context import work_of
from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping, mib, size_of
from rlhf.training.seal import contents, damage


@dataclass(frozen=True)
class Listed:
    """A checkpoint: what is wrong with it (None: nothing), its metric, and what it is to the run."""

    path: Path
    size: int
    damage: str | None
    metric: float | None
    marks: Sequence[str]

    def line(self, metric: str | None) -> str:
        """One line of the list."""
        shown = f"  {metric} {self.metric:.4g}" if self.metric is not None else ""
        state = f"damaged: {self.damage}" if self.damage is not None else ", ".join(["sound", *self.marks])
        return f"{self.path.name}  {mib(self.size)}{shown}  {state}"


def work_directory(run: Path) -> Path:
    """Where the run keeps its checkpoints: `run` is its output, its work directory, or a pipeline's run directory.

    Raises RunError when there is none.
    """
    places = [run, work_of(run), work_of(run / "ppo")]
    for place in places:
        if (place / "checkpoints").is_dir():
            return place
    raise RunError(f"{run}: no checkpoints there; give the output or the run directory of a PPO run")


def checkpoints_of(work: Path, config: PPOConfig) -> Iterator[Listed]:
    """Every checkpoint, oldest first, after reading every byte of it."""
    found = DirectoryCheckpoints(work / "checkpoints", Keeping(config.keep_checkpoints, config.best_checkpoint))
    damages = {path: damage(path) for path in found.published()}
    sound = [path for path, wrong in damages.items() if wrong is None]
    best = found.best(sound)
    for path, wrong in damages.items():
        numbers = contents(path)["numbers"] if wrong is None else {}
        marks = [mark for mark, marked in (("newest", sound[-1:]), ("best", [best])) if path in marked]
        yield Listed(path, size_of(path), wrong, numbers.get(config.best_checkpoint), marks)
