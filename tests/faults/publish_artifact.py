"""Run by test_crash_points.py with the shim loaded: an artifact replaces an older one, and the machine loses its power.

Arguments: a directory to work in. Prints the number of file operations of a publication that were hit.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rlhf import artifacts
from tests.faults.faults import CRASHED, EXIT, Fault, lose_unsynced_data, under, undo_unsynced_renames

LOSSES = {"data": lose_unsynced_data, "names": undo_unsynced_renames}


def publish(path: Path, content: str) -> int:
    with artifacts.publishing(path, "stage", content, {}) as draft:
        (draft.path / "ema").mkdir()
        for name in ("weights", "ema/weights"):
            (draft.path / name).write_text(content * 100)
    return 0


def found(path: Path) -> str | None:
    """Which artifact is there, whole; None: none, so that its stage is run again."""
    if not (path / artifacts.MANIFEST).is_file():
        return None
    manifest = artifacts.load(path).manifest
    assert manifest.files.keys() == {"weights", "ema/weights"}
    for name, wanted in manifest.files.items():
        assert artifacts.file_digest(path / name) == wanted, f"{name} is not what the manifest says"
    return manifest.config_hash


def disturbed(root: Path, which: int, loss: str) -> bool:
    """Publish, and lose power before the `which`-th file operation; whether it was reached, else at the end."""
    run = root / "run"
    shutil.rmtree(run, ignore_errors=True)
    publish(run / "model", "old")
    after = under(Fault(EXIT, which), run, lambda: publish(run / "model", "new"))
    assert after.code in (0, CRASHED)
    LOSSES[loss](after.done)
    there = found(run / "model")
    assert there == "new" if after.code == 0 else there in ("old", "new", None), (which, loss, there)
    publish(run / "model", "again")
    assert found(run / "model") == "again" and [path.name for path in run.iterdir()] == ["model"]
    return after.code == CRASHED


def main() -> None:
    for loss in LOSSES:
        which = 1
        while disturbed(Path(sys.argv[1]), which, loss):
            which += 1
        print(loss, which - 1)


if __name__ == "__main__":
    main()
