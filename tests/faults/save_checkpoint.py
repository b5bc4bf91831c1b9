"""Run by test_crash_points.py with the shim loaded: a checkpoint is saved beside an older one, and as the first of a
run, under every fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState, Roles
from rlhf.ppo.rollout_file import read_rollout, write_rollout
from rlhf.sound import SoundDirectory
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.faults.everywhere import report
from tests.ppo import fakes
from tests.ppo import test_rollout_file as rollouts

OLD, NEW = LoopState(2, 0.02), LoopState(4, 0.04)


@dataclass
class File:
    """A part of a checkpoint that is one file, and holds the step."""

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], int]
    step: int = -1

    def save(self, directory: Path) -> fakes.Pending:
        def work() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            self.write(directory / self.name, self.step)

        return fakes.Pending([], "save", work)

    def load(self, directory: Path | SoundDirectory) -> fakes.Pending:
        within = directory.path if isinstance(directory, SoundDirectory) else directory
        self.step = self.read(within / self.name)
        return fakes.Pending([], "load")


def write_states(path: Path, step: int) -> None:
    torch.save({"module": torch.full((3, 5), float(step))}, path)


def read_states(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["module"][2, 4])


def write_average(path: Path, step: int) -> None:
    save_file({"weight": torch.full((3, 5), float(step))}, str(path))


def read_average(path: Path) -> int:
    return int(load_file(str(path))["weight"][2, 4])


def write_waiting(path: Path, step: int) -> None:
    write_rollout(path, replace(rollouts.saved(greedy=True), prompts_used=step), ["text"] * 4)


def read_waiting(path: Path) -> int:
    return read_rollout(path, 0, rollouts.PARTS).prompts_used


def parts() -> tuple[Roles, list[File]]:
    """Roles whose parts are what real ones write: DeepSpeed's shares, averages in safetensors, and a rollout that waits
    for its step."""
    files = [
        File("mp_rank_00_model_states.pt", write_states, read_states),
        File("average_rank0.safetensors", write_average, read_average),
        File("waiting_000.parquet", write_waiting, read_waiting),
    ]
    policy, critic, collector = files
    return replace(fakes.roles(), policy=policy, critic=critic, collector=collector), files  # type: ignore[arg-type]


def kept(root: Path) -> DirectoryCheckpoints:
    """Only the newest checkpoint stays."""
    return DirectoryCheckpoints(root / "ppo.work" / "checkpoints", Keeping(1), lambda said: None)


def save(root: Path, state: LoopState) -> None:
    """Everything names its step."""
    roles, files = parts()
    for file in files:
        file.step = state.step
    checkpoints = kept(root)
    checkpoints.save(roles, state, {})
    checkpoints.finish()
    checkpoints.close()


def restored(root: Path) -> LoopState | None:
    """What a run goes on from, all parts of it of one step; None: nothing, it starts from the beginning."""
    roles, files = parts()
    state = kept(root).restore(roles)
    assert {file.step for file in files} == {-1 if state is None else state.step}, state
    return state


@dataclass(frozen=True)
class Save:
    """A save in a run that has the checkpoint `before`, or none."""

    name: str
    before: LoopState | None
    failures: tuple[type[Exception], ...] = (OSError, RunError, RuntimeError, SafetensorError)  # Runtime: torch.save

    def prepare(self, root: Path) -> None:
        if self.before is not None:
            save(root, self.before)

    def do(self, root: Path) -> None:
        save(root, NEW)

    def require_sound(self, root: Path, ended: bool) -> None:
        """The state before or the new one is there, and saving works."""
        assert restored(root) in ((NEW,) if ended else (self.before, NEW))
        save(root, NEW)
        assert restored(root) == NEW
        assert [path.name for path in (root / "ppo.work" / "checkpoints").iterdir()] == ["step_000004"]


if __name__ == "__main__":
    report([Save("beside an older one", OLD), Save("the first of a run", None)])
