"""Stages whose actors are struck on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from rlhf.artifacts import Artifact, load
from rlhf.config import validate
from rlhf.context import RunContext
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

    def losses(self) -> list[str]:
        """What it said of processes that it lost."""
        return [note for note in self.notes if " was lost in " in note]


class Disturbs(Protocol):
    """Is told every phase, and has the actors by role once they are being started."""

    pools: Mapping[str, Any]

    def leave(self) -> None:
        """A phase ends: returns when it may."""

    def enter(self, step: int, phase: str) -> None:
        """The next one begins."""

    def join(self) -> None: ...


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

    published, outcome = run_stage(ppo_job.run, config, monkeypatch, *blows)
    return replace(outcome, rows=rows_of(published.path))


def run_stage(
    stage: Callable[[Any, RunContext], Artifact], config: Any, monkeypatch: pytest.MonkeyPatch, *blows: Blow
) -> tuple[Artifact, Outcome]:
    """Run any stage that has actors in this process, under blows."""
    notes, plain = Notes(), context_of(config.output)
    context = RunContext(plain.stage, plain.directory, plain.config_hash, plain.inputs, notes)
    with disturbed(monkeypatch, disturber := Disturber(blows)):
        published = stage(config, context)
    return published, Outcome([], notes.lines, disturber.struck)


def evaluate(
    models: Any, root: Path, monkeypatch: pytest.MonkeyPatch, name: str, *blows: Blow
) -> tuple[Any, dict[str, Any], Outcome]:
    """Compare two models as `rlhf evaluate` does, in this process, under blows: the table and the metrics that it
    published."""
    from actors import evaluate_job

    published, outcome = run_stage(evaluate_job.run, evaluation_of(models, root / name), monkeypatch, *blows)
    return *table_of(published.path), outcome


def evaluation_of(models: Any, output: Path) -> Any:
    """The config of an evaluation of two models."""
    from rlhf.evaluation.config import EvaluateConfig

    return validate(EvaluateConfig, {
        "output": str(output), "models": {"base": str(models.tied), "sft": str(models.untied)},
        "reward": str(models.reward), "prompts": str(models.prompts), "max_prompts": 12,
        "sampler": {"max_new_tokens": 16, "max_model_len": 128, "max_sequences": 8, "resources": {"cpus": 0.5}},
    })


def table_of(output: Path) -> tuple[Any, dict[str, Any]]:
    """What an evaluation has published: the table and the metrics."""
    import pandas

    return pandas.read_parquet(output / "transcripts.parquet"), dict(load(output).manifest.metrics)


@contextmanager
def disturbed(monkeypatch: pytest.MonkeyPatch, disturber: Disturbs) -> Iterator[None]:
    """Whatever runs inside tells the disturber its phases and its actors."""
    from actors import evaluate_job, pairs_job, ppo_job, recovery
    from actors.watchdog import Watchdog
    from rlhf.ppo.recorder import RunRecorder

    class Recording(RunRecorder):
        def enter(self, step: int, phase: str) -> None:
            disturber.leave()
            super().enter(step, phase)
            disturber.enter(step, phase)

    class Phasing(recovery.Phase):
        def enter(self, phase: str) -> None:
            disturber.leave()
            super().enter(phase)
            disturber.enter(0, phase)

    class Watching(Watchdog):
        def look_after(self, pools) -> None:
            super().look_after(pools)
            disturber.pools = pools

    with monkeypatch.context() as patch:
        patch.setattr(ppo_job, "RunRecorder", Recording)
        patch.setattr(evaluate_job, "Phase", Phasing)
        patch.setattr(pairs_job, "Phase", Phasing)
        patch.setattr(recovery, "Watchdog", Watching)
        try:
            yield
        finally:
            disturber.join()


def rows_of(directory: Path) -> list[dict[str, float]]:
    """Metrics of a published run, without times."""
    return without_time(read_json_lines(directory / "metrics.jsonl"))
