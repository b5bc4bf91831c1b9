"""Workers of Ray Train jobs that kill or stop themselves where a plan says, once each."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlhf.training.snapshot import saved
from tests.limits import HANG_S, wait_until

PLAN = "chaos_plan.json"
SLEEP = 0  # in the place of a signal: the worker hangs, but its process answers


@dataclass
class WorkerBlow:
    """A signal to worker `rank` in a phase of the first step that is at least `step`. Then `resumed` is the step after
    which the workers went on, and `lost_s` the seconds until that phase of that step was reached again."""

    rank: int
    step: int
    phase: str
    signal: int = signal.SIGKILL
    pid: int | None = None
    at: float = 0.0
    lost_s: float | None = None
    resumed: int | None = None


def plan(work: Path, blows: Sequence[WorkerBlow]) -> None:
    """What the workers of the job in `work` will do to themselves."""
    work.mkdir(parents=True, exist_ok=True)
    _write(work, blows)


def dealt(work: Path) -> list[WorkerBlow]:
    return [WorkerBlow(**blow) for blow in json.loads((work / PLAN).read_text())]


def run_struck_worker(job: Any) -> None:
    """`run_worker` with one callback more; Ray Train sends it to the workers in its place."""
    from rlhf.training import trainers
    from rlhf.training.worker import run_worker

    build = trainers.build_trainer

    def build_struck(*arguments: Any) -> Any:
        trainer = build(*arguments)
        killing, group_sums = KillsItself(job, trainer.args.process_index), trainer._group_sums
        trainer.callback_handler.callbacks.insert(0, killing)

        def struck_sums(*given: Any) -> Any:
            killing.reached("evaluation", trainer.state.global_step)
            return group_sums(*given)

        trainer._group_sums = struck_sums
        return trainer

    trainers.build_trainer = build_struck
    run_worker(job)


class KillsItself(TrainerCallback):
    """Before any other callback sees the event."""

    def __init__(self, job: Any, rank: int) -> None:
        self._job, self._work, self._rank = job, job.work, rank

    def on_train_begin(self, args, state, control, **_: Any) -> None:
        blows = dealt(self._work)
        if self._rank == 0 and blows[0].pid is not None:
            last = [blow for blow in blows if blow.pid is not None][-1]
            last.resumed = state.global_step
            _write(self._work, blows)

    def on_step_begin(self, args, state, control, **_: Any) -> None:
        self.reached("begin", state.global_step + 1)

    def on_pre_optimizer_step(self, args, state, control, **_: Any) -> None:
        self.reached("update", state.global_step + 1)

    def on_save(self, args, state, control, **_: Any) -> None:
        self.reached("checkpoint", state.global_step)

    def on_train_end(self, args, state, control, **_: Any) -> None:
        self._listed(state.global_step)
        self.reached("end", state.global_step)

    def _listed(self, step: int) -> None:
        """Ray Train learns of a checkpoint when it asks the workers next, some seconds later."""
        wait_until(lambda: step in [each.step for each in saved(self._job.attempt)], what=f"checkpoint of step {step}")

    def reached(self, phase: str, step: int) -> None:
        blows = dealt(self._work)
        for number, blow in enumerate(blows):
            if (blow.rank, blow.phase) != (self._rank, phase) or step < blow.step or blow.lost_s is not None:
                continue
            if blow.pid is not None:
                blow.lost_s = time.time() - blow.at
                _write(self._work, blows)
            elif all(before.lost_s is not None for before in blows[:number]):
                if (due := (step - 1) // self._job.training.eval_every * self._job.training.eval_every):
                    self._listed(due)
                blow.pid, blow.at, blow.step = os.getpid(), time.time(), step
                _write(self._work, blows)
                if blow.signal == SLEEP:
                    time.sleep(10 * HANG_S)
                os.kill(os.getpid(), blow.signal)


def _write(work: Path, blows: Sequence[WorkerBlow]) -> None:
    temporary = work / f"{PLAN}.{os.getpid()}"
    temporary.write_text(json.dumps([asdict(blow) for blow in blows]))
    temporary.replace(work / PLAN)
