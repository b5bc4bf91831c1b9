"""Run by test_crash_points.py with the shim loaded: an artifact replaces an older one, and is the first, under every
fault."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf import artifacts
from tests.faults.everywhere import report


def publish(path: Path, content: str) -> None:
    with artifacts.publishing(path, "stage", content, {}) as draft:
        (draft.path / "ema").mkdir()
        for name in ("weights", "ema/weights"):
            (draft.path / name).write_text(content * 100)


def found(path: Path) -> str | None:
    """Which artifact is there, whole; None: none, so that its stage is run again."""
    if not (path / artifacts.MANIFEST).is_file():
        return None
    manifest = artifacts.load(path).manifest
    assert manifest.files.keys() == {"weights", "ema/weights"}
    for name, wanted in manifest.files.items():
        assert artifacts.file_digest(path / name) == wanted, f"{name} is not what the manifest says"
    return manifest.config_hash


@dataclass(frozen=True)
class Publish:
    """A publication where the artifact `before` is, or none."""

    name: str
    before: str | None
    failures: tuple[type[Exception], ...] = (OSError,)

    def prepare(self, root: Path) -> None:
        if self.before is not None:
            publish(root / "model", self.before)

    def do(self, root: Path) -> None:
        publish(root / "model", "new")

    def require_sound(self, root: Path, ended: bool) -> None:
        """The one before, the new one or none is there, and publishing works."""
        assert found(root / "model") in (("new",) if ended else (self.before, "new", None))
        publish(root / "model", "again")
        assert found(root / "model") == "again" and [path.name for path in root.iterdir()] == ["model"]


if __name__ == "__main__":
    report([Publish("in the place of an older one", "old"), Publish("the first", None)])
