"""The command of any stage, in this process, up to where its first Ray process would start."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf import cli
from rlhf.plan.hardware import Cluster


class Reached(Exception):
    """Everything that is read before Ray's processes start has been read, and found good."""


@contextlib.contextmanager
def without_ray() -> Iterator[None]:
    """Stages end where they would start processes. All that they read and check before is as it is."""
    from actors import evaluate_job

    def reached(*_: object, **__: object) -> None:
        raise Reached

    def texts_then_reached(config: Any) -> None:
        evaluate_job._texts(config)  # read after the engines have sampled
        raise Reached

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_session", lambda *_: nullcontext())
        patch.setattr("rlhf.plan.refusal.ray_cluster", lambda: Cluster(1, 0, None))
        patch.setattr("rlhf.training.ray_train.require_resources", lambda *_: None)
        patch.setattr("rlhf.training.ray_train.train", reached)
        patch.setattr("actors.ppo_job.require_room", lambda *_: None)
        patch.setattr("actors.ppo_job.roles_of", reached)
        patch.setattr("actors.pairs_job.engines", reached)
        patch.setattr("actors.evaluate_job._start_scorer", texts_then_reached)
        yield


def command(stage: str, config: dict[str, Any], directory: Path) -> tuple[int, list[str]]:
    """Exit code and lines on stderr; 0 where a stage that starts processes got there."""
    path = directory / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main([stage, str(path)])
        except SystemExit as ended:
            code = ended.code or 0
        except Reached:
            code = 0
    return int(code), said.getvalue().splitlines()


def require_one_sentence(code: int, lines: list[str]) -> None:
    """It works, or one sentence says what and where."""
    assert code in (0, 2), (code, lines)
    if code:
        assert len(lines) == 1 and lines[0].startswith("rlhf: "), lines
        assert "Traceback" not in lines[0] and len(lines[0]) < 1500, lines
