"""What a Ray Train job is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.models.loading import NewModelConfig
from rlhf.models.sources import is_local
from rlhf.training.config import TrainingConfig

Kind = Literal["pretrain", "sft", "reward"]


@dataclass(frozen=True)
class TrainJob:
    """All that a worker needs to know; it travels to the workers pickled.

    `model` is a directory or hub name, or the sizes of a new model; `tokenizer` a directory or hub name.
    `work` is the stage's directory for what must survive a kill, the same on every node; `attempt` the part of it
    that is this attempt's own, without a name until it begins. `tokens_per_step`: of an optimizer step, the mean.
    """

    kind: Kind
    model: str | NewModelConfig
    tokenizer: str
    work: Path
    training: TrainingConfig
    total_steps: int
    seed: int
    attempt: Path = Path()
    tokens_per_step: float = 0.0

    @property
    def examples(self) -> Path:
        """Where the driver has put the examples."""
        return self.work / "examples"

    @property
    def reports(self) -> Path:
        """Where rank 0 appends each row that it logs. It outlives a kill: a checkpoint may be newer than the driver."""
        return self.attempt / "reports.jsonl"

    @property
    def lost(self) -> Path:
        """The processes of the workers that there were when some were lost last."""
        return self.attempt / "lost.json"

    @property
    def repeated(self) -> Path:
        """A file that Ray Train's controller makes when it gives the job up, though workers may be lost more often: it
        was twice in a row in the same phase of the same step."""
        return self.attempt / "repeated"

    @property
    def told(self) -> Path:
        """What the user is to be told: of lost workers by Ray Train's controller, of steps left out by a worker."""
        return self.attempt / "told.jsonl"

    @property
    def positions(self) -> Path:
        """Where each worker says where it stands."""
        return self.attempt / "positions"

    def position_of(self, rank: int) -> Path:
        return self.positions / f"{rank:05d}.json"

    @property
    def failure(self) -> Path:
        """Where a worker says why it stopped the run, when a restart would only repeat that."""
        return self.attempt / "failure.json"

    @property
    def end_requested(self) -> Path:
        """A file that the driver makes when the workers are to save their state and end."""
        return self.attempt / "end_requested"

    @property
    def ended_at(self) -> Path:
        """Where the workers say at which step they ended because of that."""
        return self.attempt / "ended_at"

    @property
    def offline(self) -> bool:
        """Whether nothing has to be fetched from a hub."""
        sources = [source for source in (self.model, self.tokenizer) if isinstance(source, str)]
        return all(is_local(source) for source in sources)
