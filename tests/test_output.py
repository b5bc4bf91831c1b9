"""A stage never replaces a directory that no stage has published."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.pipeline import require_own_directory


def test_new_empty_and_published_directories_are_fine(tmp_path: Path) -> None:
    require_own_directory(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    require_own_directory(tmp_path / "empty")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "manifest.json").write_text("{}")
    require_own_directory(tmp_path / "published")


def test_a_directory_with_files_of_somebody_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(RunError, match="holds files that no stage has published"):
        require_own_directory(tmp_path)
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_file_and_places_without_a_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="is a file; name a directory"):
        require_own_directory(tmp_path / "file")
    for place in ("/", ".", ".."):
        with pytest.raises(RunError):
            require_own_directory(Path(place))
