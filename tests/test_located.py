"""Inputs by their absolute paths, for Ray's processes work in other directories."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.config import load
from rlhf.pipeline import PipelineConfig, jobs
from rlhf.stage import inputs, located


def test_every_stage_of_the_demos_takes_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever holds its inputs: fields, lists, tuples, mappings, sections."""
    root = Path(__file__).resolve().parent.parent / "configs"
    for file, more in (("pipeline.yaml", []), ("demo_real.yaml", [f"sources.real={tmp_path}"])):
        todo = jobs(load(PipelineConfig, [root / file], ["run_dir=run", *more]), STAGES, load_object)
        monkeypatch.chdir(tmp_path)
        for item in (item for job in todo for item in inputs(job.config)):
            Path(item.value).mkdir(parents=True, exist_ok=True)
        for job in todo:
            found = [item.value for item in inputs(located(job.config))]
            assert found == [str(Path(item.value).absolute()) for item in inputs(job.config)]
