"""Side (c): `rlhf ppo` on the workload, started as a user starts it and watched from outside.

    python tests/benchmarks/ours.py WORKLOAD RESULT [--repeats 7] [KEY=VALUE ...]

An iteration is the time from one step's line in metrics.jsonl to the next one's, so that nothing between two
steps is left out; the phases are the run's own `time/…` numbers. The process that is watched is the driver; its
actors are its descendants.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from measure import Timing, write_result
from workload import PROMPTS

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.01
PHASES = ("rollout", "score", "experience", "update", "publish", "step")


@dataclass(frozen=True)
class Step:
    """A line of metrics.jsonl: when it appeared, in seconds after the command started, and the driver's memory."""

    at: float
    numbers: dict[str, float]
    rss_bytes: int


class RunFailed(RuntimeError):
    """`rlhf ppo` did not end well; the message holds the end of what it printed."""


def watch(workload: Path, output: Path, steps: int, overrides: Sequence[str] = ()) -> Iterator[Step]:
    """Run `rlhf ppo` for `steps` steps in a fresh `output` directory, yielding every step as it is recorded."""
    work = output.with_name(f"{output.name}.work")
    for directory in (output, work):
        shutil.rmtree(directory, ignore_errors=True)
    work.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_name(f"{output.name}.log")
    command = [sys.executable, "-m", "rlhf", "ppo", str(Path(__file__).with_name("ppo.yaml"))]
    command += [
        f"output={output.resolve()}",
        f"steps={steps}",
        f"prompts={workload.resolve()}/prompts.jsonl",
        *(f"{role}.model={workload.resolve()}/policy" for role in ("policy", "reference")),
        *(f"{role}.model={workload.resolve()}/reward" for role in ("critic", "reward")),
        *overrides,
    ]
    started = time.perf_counter()
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield from _steps(process, work / "metrics.jsonl", started)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=120)
    if process.returncode != 0:
        raise RunFailed(f"{' '.join(command)} ended with {process.returncode}:\n{log.read_text()[-3000:]}")


def _steps(process: subprocess.Popen, metrics: Path, started: float) -> Iterator[Step]:
    driver, position = psutil.Process(process.pid), 0
    while process.poll() is None:
        size = metrics.stat().st_size if metrics.exists() else 0
        if size > position:
            at, rss = time.perf_counter() - started, driver.memory_info().rss
            text = metrics.read_bytes()[position:]
            complete = text[: text.rfind(b"\n") + 1]
            position += len(complete)
            for line in complete.splitlines():
                yield Step(at, json.loads(line), rss)
        time.sleep(POLL_S)


def time_ours(workload: Path, output: Path, result: Path, repeats: int, overrides: Sequence[str] = ()) -> None:
    """Time `repeats` iterations after two of warm-up: `period` from step to step, and the run's own phases."""
    steps = list(watch(workload, output, repeats + 2, overrides))
    periods = [after.at - before.at for before, after in pairwise(steps[1:])]
    timings = {"period": Timing(periods)}
    for phase in PHASES:
        timings[phase] = Timing([step.numbers[f"time/{phase}"] for step in steps[2:]])
    lengths = [step.numbers["response/length_mean"] for step in steps[2:]]
    write_result(result, timings, new_tokens=[length * PROMPTS for length in lengths])


def time_to_first_rollout(workload: Path, output: Path, overrides: Sequence[str] = ()) -> float:
    """Seconds from the start of the command until the first rollout is finished."""
    [first] = watch(workload, output, 1, overrides)
    return first.at - (first.numbers["time/step"] - first.numbers["time/rollout"])


def driver_memory(workload: Path, output: Path, steps: int, overrides: Sequence[str] = ()) -> dict[str, float]:
    """The driver's resident memory over a run: after a tenth of the steps, at the end (MiB), and the slope of a
    straight line through what lies between (KiB per step)."""
    seen = list(watch(workload, output, steps, overrides))
    kept = seen[max(1, steps // 10) :]
    slope = statistics.linear_regression([float(k) for k in range(len(kept))], [float(s.rss_bytes) for s in kept]).slope
    mib = 1 << 20
    return {
        "steps": steps,
        "early_mib": kept[0].rss_bytes / mib,
        "end_mib": kept[-1].rss_bytes / mib,
        "slope_kib_per_step": slope / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("overrides", nargs="*", help="key.sub=value, for `rlhf ppo`")
    arguments = parser.parse_args()
    output = arguments.result.with_suffix("")
    time_ours(arguments.workload, output, arguments.result, arguments.repeats, arguments.overrides)


if __name__ == "__main__":
    main()
