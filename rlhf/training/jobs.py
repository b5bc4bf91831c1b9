"""What a Ray Train job is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlhf.models.loading import NewModelConfig, is_local
from rlhf.training.config import TrainingConfig

Kind = Literal["pretrain", "sft", "reward"]


@dataclass(frozen=True)
class TrainJob:
    """All that a worker needs to know; it travels to the workers pickled.

    `model` is a directory or hub name, or the sizes of a new model; `tokenizer` a directory or hub name.
    `work` is the stage's directory for what must survive a kill, the same on every node.
    """

    kind: Kind
    model: str | NewModelConfig
    tokenizer: str
    work: Path
    training: TrainingConfig
    total_steps: int
    seed: int

    @property
    def examples(self) -> Path:
        """Where the driver has put the examples."""
        return self.work / "examples"

    @property
    def reports(self) -> Path:
        """Where rank 0 appends each row that it logs. It outlives a kill: a checkpoint may be newer than the driver."""
        return self.work / "reports.jsonl"

    @property
    def failure(self) -> Path:
        """Where a worker says why it stopped the run, when a restart would only repeat that."""
        return self.work / "failure.json"

    @property
    def offline(self) -> bool:
        """Whether nothing has to be fetched from a hub."""
        sources = [source for source in (self.model, self.tokenizer) if isinstance(source, str)]
        return all(is_local(source) for source in sources)
