"""`summary.json` of a run directory: the numbers that it is judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlhf.artifacts import package_versions, write_json
from rlhf.report import collect, table
from rlhf.report.headline import headline, perplexity

SUMMARY, REPORT = "summary.json", "report/report.html"


@dataclass(frozen=True)
class Measured:
    """What a call has measured after a stage.

    stage_s: how long the stage took, None when it was skipped; call_s: how long the call has taken so far, None when it
    skipped a stage and so does not time the pipeline; peak_pss_gib: None where it cannot be seen.
    """

    stage_s: float | None
    call_s: float | None
    peak_pss_gib: float | None


def summarise(run_dir: Path, seed: int, stage: str, measured: Measured) -> Path:
    """Write what the finished stages have measured so far.

    `wall_s` is the time of a call that ran all stages, the start of Ray included; else the sum over stages, each as
    long as its last real run took. The peak is the highest of all calls that ran a stage.
    """
    path = run_dir / SUMMARY
    before = table.read(path) if path.is_file() else {}
    stages = dict(before.get("stages") or {})
    if measured.stage_s is not None:
        stages[stage] = {"wall_s": round(measured.stage_s, 1)}
    wall = sum(item["wall_s"] for item in stages.values()) if measured.call_s is None else measured.call_s
    peaks = [peak for peak in (measured.peak_pss_gib, before.get("peak_pss_gib")) if peak is not None]
    run = collect.read(run_dir)
    found = headline(run)
    write_json(path, {
        **{name: value for name, value in found.items() if name not in ("wall_s", "peak_pss_gib", "seed")},
        "perplexity": perplexity(run),
        "wall_s": round(wall, 1),
        "peak_pss_gib": round(max(peaks), 2) if peaks else None,
        "seed": seed,
        "report": str(run_dir / REPORT) if (run_dir / REPORT).is_file() else None,
        "stages": stages,
        "versions": package_versions(),
    })
    return path


def show(run_dir: Path) -> None:
    """Print the table of a run."""
    table.show(run_dir / SUMMARY)


def compare(run_dirs: Sequence[Path]) -> None:
    """Print runs side by side."""
    table.compare([directory / SUMMARY for directory in run_dirs])
