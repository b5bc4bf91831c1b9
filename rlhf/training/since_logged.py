"""What a Trainer has summed since its last line of metrics: a checkpoint between two lines keeps it, so that the next
line of a run that goes on from there is that of a run that nothing disturbed.

transformers keeps none of it. Each rank has a file of its own, as with the states of generators.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf.artifacts import write_json
from rlhf.training.guard import PassedOver

FILES = "since_logged_*.json"


class KeepSums(TrainerCallback):
    """Adds the sums to each checkpoint, before its files are listed."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer

    def on_save(self, args, state, control, **_: Any) -> None:
        sums = {
            "logged_at": self._trainer._globalstep_last_logged,
            "loss": float(self._trainer._tr_loss),
            "metrics": {name: [float(each) for each in found] for name, found in self._trainer.sums.items()},
            "left_out": asdict(self._trainer.left_out),
        }
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        write_json(directory / _file(args.process_index), sums)


class TakeUpSums(TrainerCallback):
    """Goes on with the sums of a checkpoint; one of an earlier version has none."""

    def __init__(self, trainer: Any, checkpoint: Path) -> None:
        self._trainer, self._checkpoint = trainer, checkpoint

    def on_train_begin(self, args, state, control, **_: Any) -> None:
        path = self._checkpoint / _file(args.process_index)
        if not path.exists():
            return
        sums = json.loads(path.read_text(encoding="utf-8"))
        self._trainer._globalstep_last_logged = sums["logged_at"]
        self._trainer._tr_loss.fill_(sums["loss"])
        for name, found in sums["metrics"].items():
            self._trainer.sums[name].extend(found)
        if "left_out" in sums:  # not in one of an earlier version
            self._trainer.left_out = PassedOver(**sums["left_out"])


def _file(rank: int) -> str:
    return f"since_logged_{rank:05d}.json"
