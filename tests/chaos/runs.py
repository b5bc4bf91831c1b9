"""PPO runs whose actors are struck on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from rlhf.metrics import read_json_lines
from rlhf.ppo.config import PPOConfig
from tests.chaos.disturber import Blow, Disturber, Struck
from tests.end_to_end.jobs import context_of, without_time


@dataclass(frozen=True)
class Outcome:
    """What a run wrote, without times; what it said of its losses; and the blows that it survived."""

    rows: list[dict[str, float]]
    notes: list[str]
    struck: list[Struck]


class Notes:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

    def step(self, label: str, done: int, total: int, numbers: object) -> None: ...

    def close(self) -> None: ...


def run(config: PPOConfig, monkeypatch: pytest.MonkeyPatch, *blows: Blow) -> Outcome:
    """Run the PPO stage as `rlhf ppo` does, in this process, under blows."""
    from actors import ppo_job
    from actors.watchdog import Watchdog
    from rlhf.context import RunContext
    from rlhf.ppo.recorder import RunRecorder

    disturber, notes = Disturber(blows), Notes()

    class Struck(RunRecorder):
        def enter(self, step: int, phase: str) -> None:
            super().enter(step, phase)
            disturber.enter(step, phase)

    class Watching(Watchdog):
        def look_after(self, pools) -> None:
            super().look_after(pools)
            disturber.pools = pools

    monkeypatch.setattr(ppo_job, "RunRecorder", Struck)
    monkeypatch.setattr(ppo_job, "Watchdog", Watching)
    plain = context_of(config.output)
    context = RunContext(plain.stage, plain.directory, plain.config_hash, plain.inputs, notes)
    try:
        published = ppo_job.run(config, context)
    finally:
        disturber.join()
    return Outcome(rows_of(published.path), notes.lines, disturber.struck)


def rows_of(directory: Path) -> list[dict[str, float]]:
    """Metrics of a published run, without times."""
    return without_time(read_json_lines(directory / "metrics.jsonl"))
