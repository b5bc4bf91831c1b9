"""What a stage is given besides its config: where to write, under which seed, and how to publish."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf import artifacts
from rlhf.artifacts import Artifact, Draft
from rlhf.progress import Progress


def work_of(directory: Path) -> Path:
    """Where a stage that publishes `directory` keeps what must survive a kill."""
    return directory.with_name(f"{directory.name}.work")


@dataclass(frozen=True)
class RunContext:
    """One stage of one run.

    `directory` is where the artifact will stand; `work` is a sibling for what must survive a kill before
    that (checkpoints, metrics); `config_hash` and `inputs` decide whether a published artifact still matches.
    `taken` is called when what lies in `work` has become this run's: what it says then is no refusal any more.
    """

    stage: str
    directory: Path
    config_hash: str
    inputs: Mapping[str, str]
    progress: Progress
    taken: Callable[[], None] = lambda: None

    @property
    def work(self) -> Path:
        return work_of(self.directory)

    def existing(self) -> Artifact | None:
        """The artifact that this very config and these inputs have already made."""
        return artifacts.find(self.directory, self.stage, self.config_hash, self.inputs)

    @contextmanager
    def publishing(self) -> Iterator[Draft]:
        """Fill a directory; it appears at `directory` only when the block ends without an error."""
        with artifacts.publishing(self.directory, self.stage, self.config_hash, self.inputs) as draft:
            yield draft
