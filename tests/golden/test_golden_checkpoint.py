"""A checkpoint that was committed goes on under today's code: whoever changes the format sees it here.

`format_1` was made by `tests/golden/learners.py`: real learners under ZeRO-2, and a rollout that waited for its step.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.seal import FORMAT, MANIFEST, SEAL
from tests.limits import HANG_S
from tests.ppo import fakes

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name(f"format_{FORMAT}")
STEP = "run.work/checkpoints/step_000001"


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """A copy, as a run directory of this machine."""
    shutil.copytree(GOLDEN, tmp_path / "golden")
    config = tmp_path / "golden" / "run.work" / "config.yaml"
    config.write_text(config.read_text().replace("ROOT", str(tmp_path / "golden")))
    return tmp_path / "golden"


def call(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=HANG_S,
        check=False,
    )


def rewrite_format(golden: Path, number: object) -> None:
    """As if another version had sealed it."""
    manifest, seal = golden / STEP / MANIFEST, golden / STEP / SEAL
    content = json.loads(manifest.read_text())
    text = json.dumps({**content, "format": number} if number is not None else
                      {key: value for key, value in content.items() if key != "format"})
    manifest.write_text(text)
    seal.write_text(hashlib.sha256(text.encode()).hexdigest() + "\n")


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 300_000


def test_it_is_listed_and_verified(golden: Path) -> None:
    done = call("rlhf", "checkpoints", str(golden / "run"))
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "step_000001  0.1 MiB  sound, newest\n")


def test_it_is_exported_without_a_word_of_the_engines(golden: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    target = tmp_path / "plain"
    done = call("rlhf", "checkpoints", str(golden / "run"), "--export", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{target}: the policy of step_000001\n"
    expected = json.loads((golden / "expected.json").read_text())["saved"]
    found = load_file(target / "model.safetensors")
    assert found
    for name, weight in found.items():
        number = float((weight.double() * torch.arange(1, weight.numel() + 1).view_as(weight)).sum())
        assert number == pytest.approx(expected[f"policy.{name}"], rel=1e-9, abs=1e-9), name


@pytest.mark.slow
def test_a_run_goes_on_from_it(golden: Path) -> None:
    """The very weights, optimizer states and waiting rollout; the next update has the numbers that it had then."""
    done = call("tests.golden.learners", "resume", str(golden))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    expected = json.loads((golden / "expected.json").read_text())
    assert found["saved"] == expected["saved"]
    for what in ("metrics", "after"):
        assert found[what] == pytest.approx(expected[what], rel=1e-4, abs=1e-5)
    assert any(found["after"][name] != found["saved"][name] for name in found["after"])


@pytest.mark.parametrize("number", [2, 0, "1", [1]])
def test_another_format_is_told_and_nothing_is_deleted_or_renamed(golden: Path, tmp_path: Path, number: object) -> None:
    rewrite_format(golden, number)
    said = f"is of checkpoint format {number!r}, and this version reads 1"
    with pytest.raises(RunError) as refused:
        DirectoryCheckpoints(golden / "run.work" / "checkpoints", Keeping(1), print).restore(fakes.roles())
    assert f"step_000001 {said}; go on with the version of rlhf that wrote it, or delete" in str(refused.value)
    assert (golden / STEP).is_dir()
    done = call("rlhf", "checkpoints", str(golden / "run"))
    assert (done.returncode, done.stdout) == (1, f"step_000001  0.1 MiB  {said}\n")
    done = call("rlhf", "checkpoints", str(golden / "run"), "--export", str(tmp_path / "plain"))
    assert done.returncode == 2 and done.stderr == f"rlhf: {golden / STEP} {said}; take another step\n"


def test_a_checkpoint_from_before_the_number_is_of_the_first_format(golden: Path) -> None:
    rewrite_format(golden, None)
    assert call("rlhf", "checkpoints", str(golden / "run")).stdout.endswith("sound, newest\n")
