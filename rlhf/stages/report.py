"""Stage `report`: one self-contained HTML page about a run directory."""

from __future__ import annotations

from pydantic import Field

from rlhf import artifacts
from rlhf.artifacts import Artifact
from rlhf.context import RunContext
from rlhf.report import collect
from rlhf.report.headline import headline
from rlhf.report.page import render
from rlhf.report.transcripts import Limits
from rlhf.stage import Directory, Input, StageConfig

PAGE = "report.html"


class ReportConfig(StageConfig):
    """What the report reads, and how much of it the page holds."""

    run_dir: Directory = Field(description="directory of the run: of a pipeline, or of a single stage")
    artifacts: tuple[Input, ...] = Field((), description="artifacts whose change makes the report out of date")
    max_prompts: int = Field(2000, ge=1, description="most prompts in the browser of transcripts, per source")
    max_characters: int = Field(8000, ge=100, description="most characters of a prompt or a response in the page")


def run(config: ReportConfig, context: RunContext) -> Artifact:
    """Publish `report.html`; raises RunError when the run directory holds nothing, or a broken file."""
    found = collect.read(config.run_dir)
    page = render(found, Limits(config.max_prompts, config.max_characters))
    with context.publishing() as draft:
        # A lone surrogate cannot be UTF-8; in JSON its escape is what the page's parser reads.
        (draft.path / PAGE).write_text(page, encoding="utf-8", errors="backslashreplace")
        draft.metrics.update(headline(found), stages=[stage.name for stage in found.stages])
    context.progress.note(f"report: {context.directory / PAGE}")
    return artifacts.load(context.directory)
