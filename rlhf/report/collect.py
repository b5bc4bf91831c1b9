"""Read a run directory: which stages it holds, finished or under way, and what each recorded.

Three layouts are read alike: the directory of a pipeline, a directory with a single stage in it, and
the directory of a stage itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf import artifacts
from rlhf.artifacts import MANIFEST, Manifest
from rlhf.config import read_yaml
from rlhf.errors import RunError
from rlhf.metrics import read_json_lines
from rlhf.report.words import STAGES

if TYPE_CHECKING:
    import pandas

METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
TRANSCRIPTS = "transcripts"
_WORK = ".work"


@dataclass(frozen=True)
class StageRun:
    """One stage of a run.

    `directories` are searched in order: the published artifact, then what the stage keeps while it runs.
    `manifest` is None while nothing is published.
    """

    name: str
    stage: str
    directories: tuple[Path, ...]
    manifest: Manifest | None

    @property
    def finished(self) -> bool:
        return self.manifest is not None

    @property
    def results(self) -> Mapping[str, Any]:
        """The metrics of the manifest; empty while the stage runs."""
        return self.manifest.metrics if self.manifest else {}

    def find(self, name: str) -> Path | None:
        """The file or directory of that name, the published one first."""
        found = (directory / name for directory in self.directories)
        return next((path for path in found if path.exists()), None)

    def config(self) -> Mapping[str, Any]:
        """The stage's resolved config; empty where it was not written."""
        path = self.find(CONFIG)
        return read_yaml(path) if path else {}

    def metrics(self) -> pandas.DataFrame:
        """One row per logged step, ordered by `step`, columns float64; no row when nothing was logged."""
        return metrics_table(self.find(METRICS))


@dataclass(frozen=True)
class Run:
    """What a run directory holds; `stages` in the order of the pipeline."""

    path: Path
    stages: tuple[StageRun, ...]
    summary: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def seed(self) -> Any:
        """Of the pipeline, else of the one stage that there is; None when neither says."""
        alone = self.stages[0].config() if len(self.stages) == 1 else {}
        return self.config.get("seed", self.summary.get("seed", alone.get("seed")))

    def configs(self) -> dict[str, str]:
        """The text of every resolved config: of the pipeline by the run's name, of each stage by the stage's."""
        paths = {self.name: self.path / CONFIG, **{stage.name: stage.find(CONFIG) for stage in self.stages}}
        return {name: path.read_text(encoding="utf-8") for name, path in paths.items() if path and path.is_file()}

    def stage(self, stage: str) -> StageRun | None:
        """The run of `stage`: the one that bears its name, else a finished one, else any."""
        candidates = [item for item in self.stages if item.stage == stage]
        return max(candidates, key=lambda item: (item.name == stage, item.finished), default=None)


def read(run_dir: Path) -> Run:
    """What `run_dir` holds, reports aside; raises RunError when it holds nothing to report."""
    stages = [stage for stage in _stages(run_dir) if stage.stage != "report"]
    if not stages:
        what = "nothing to report in it" if run_dir.is_dir() else "no such run directory"
        raise RunError(f"{run_dir}: {what}: no stage has left an artifact or {METRICS} there; run a stage first "
                       "(`rlhf run configs/pipeline.yaml`), or set run_dir to the directory of a run")
    config = run_dir / CONFIG
    return Run(
        path=run_dir,
        stages=tuple(sorted(stages, key=_order)),
        summary=_read_summary(run_dir / "summary.json"),
        config=read_yaml(config) if config.is_file() else {},
    )


def _stages(run_dir: Path) -> list[StageRun]:
    itself = _stage_run(run_dir)
    if itself is not None:
        return [itself]
    if not run_dir.is_dir():
        return []
    children = [path for path in run_dir.iterdir() if path.is_dir() and not path.name.startswith(".")]
    names = sorted({path.name.removesuffix(_WORK) for path in children})
    found = [_stage_run(run_dir / name) for name in names]
    return [stage for stage in found if stage is not None]


def _stage_run(directory: Path) -> StageRun | None:
    """The stage that publishes at `directory`, or None when neither it nor its work directory holds anything."""
    work = directory.with_name(directory.name + _WORK)
    manifest = artifacts.load(directory).manifest if (directory / MANIFEST).is_file() else None
    under_way = any((place / METRICS).is_file() for place in (directory, work))
    if manifest is None and not under_way:
        return None
    stage = manifest.stage if manifest else _stage_under_way(directory.name, work if work.is_dir() else directory)
    return StageRun(directory.name, stage, tuple(path for path in (directory, work) if path.is_dir()), manifest)


def _stage_under_way(name: str, work: Path) -> str:
    """Before there is a manifest: the stage of that directory name, else PPO when its metrics say so."""
    if name in STAGES:
        return name
    rows = read_json_lines(work / METRICS)
    return "ppo" if any(isinstance(row, dict) and "reward/score" in row for row in rows[:5]) else name


def metrics_table(path: Path | None) -> pandas.DataFrame:
    """The rows of a metrics file as float64 columns; what is not a number is NaN."""
    import pandas

    rows = [row for row in read_json_lines(path) if isinstance(row, dict)] if path else []
    table = pandas.DataFrame(rows)
    if "step" not in table:
        return pandas.DataFrame({"step": pandas.Series(dtype="float64")})
    table = table.apply(pandas.to_numeric, errors="coerce").astype("float64")
    return table.dropna(subset=["step"]).sort_values("step", kind="stable").reset_index(drop=True)


def _read_summary(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8
        raise RunError(f"{path}: not valid JSON ({error}); delete it and run the pipeline again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds a {type(content).__name__}, not an object; delete it and run the pipeline again")
    return content


def _order(stage: StageRun) -> tuple[int, str]:
    known = list(STAGES)
    return (known.index(stage.stage) if stage.stage in known else len(known), stage.name)
