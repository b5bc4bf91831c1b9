"""What a person sees of a stage: bars in a terminal, lines in a log."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rlhf.progress import LineProgress, TerminalProgress

NUMBERS = {"reward": 1.25, "gold": 48.4375, "kl": 0.0001398, "entropy": 0.555, "length": 4.953, "gap": 4.292e-06}


def test_a_log_has_one_line_per_step(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.note("ppo: starts")
    progress.step("ppo", 3, 80, {"reward": 1.25, "kl": 0.0001398})
    assert capsys.readouterr().out == "ppo: starts\nppo 3/80  reward 1.25  kl 0.0001398\n"


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_where_it_stands_and_the_newest_numbers(width: int) -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, force_terminal=True, width=width, color_system=None))
    progress.step("reward", 5, 5, {"loss": 0.5})
    progress.step("ppo", 3, 80, NUMBERS)
    progress.close()
    last = " ".join(stream.getvalue().split("\x1b[2K")[-1].split())  # the numbers may go over two lines
    for part in ("reward", "5/5", "ppo", "3/80", "gold 48.44", "gap 4.292e-06"):
        assert part in last
    assert "loss 0.5" not in last, "numbers of what is over are not news"
    assert "…" not in last


def test_what_is_over_leaves_its_bar_alone() -> None:
    stream = io.StringIO()
    progress = TerminalProgress(Console(file=stream, force_terminal=True, width=80, color_system=None))
    progress.step("ppo", 80, 80, NUMBERS)
    progress.close()
    last = stream.getvalue().split("\x1b[2K")[-1]
    assert "80/80" in last and "gold" not in last
