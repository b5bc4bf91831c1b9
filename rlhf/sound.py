"""A directory that was verified, as a type: what reads pickles takes no other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SoundDirectory:
    """One of which every byte was compared with the SHA-256 that the run itself wrote.

    Made by the verifications alone (rlhf/training/seal.py, shares.py), and by rlhf/training/pickles.py of what they
    gave; tests/test_security.py holds the list.
    """

    path: Path

    def __truediv__(self, name: str) -> SoundDirectory:
        """A directory in it, by its plain name."""
        if Path(name).name != name:
            raise ValueError(f"'{name}' is not the plain name of a directory")
        return SoundDirectory(self.path / name)
