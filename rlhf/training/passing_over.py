"""Before Ray Train goes on from a job's checkpoints: the damaged ones leave its list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rlhf.errors import RunError
from rlhf.training import shares, snapshot
from rlhf.training.seal import DAMAGED
from rlhf.training.snapshot import Saved


def pass_over_damaged(directory: Path, note: Callable[[str], None]) -> None:
    """Read every byte of the checkpoints below an attempt's directory, and keep the sound ones in the list.

    Of a damaged one it is said what is wrong, and it loses its name. Raises RunError when there are some and none is
    sound; then nothing has changed.
    """
    there = snapshot.staying(snapshot.saved(directory))
    wrong = {each.name: found for each in reversed(there) if (found := _damage(directory / each.name)) is not None}
    sound = [each for each in there if each.name not in wrong]
    if there and not sound:
        raise RunError(
            f"{directory}: every checkpoint is damaged ({there[-1].name}: {wrong[there[-1].name]}); restore one from a "
            f"copy, or delete the directory to start over"
        )
    if there:
        snapshot.keep_only(directory, sound)
    for each in there:
        if each.name in wrong:
            _put_aside(directory / each.name)
            note(
                f"{directory / each.name} is damaged: {wrong[each.name]}; it is passed over, and now called "
                f"{DAMAGED}{each.name}{_cost(each, there, sound)}"
            )


def _damage(checkpoint: Path) -> str | None:
    return shares.damage(checkpoint) if checkpoint.is_dir() else "it is not there"


def _put_aside(checkpoint: Path) -> None:
    """Its name is for one that can be gone on from."""
    if checkpoint.is_dir():
        checkpoint.rename(checkpoint.with_name(DAMAGED + checkpoint.name))


def _cost(lost: Saved, there: list[Saved], sound: list[Saved]) -> str:
    """What is not made anew when the run goes on from the newest sound one: the best model of before that."""
    if lost != snapshot.best(there) or lost.order > sound[-1].order:
        return ""
    return (
        f"; it was the best, with a validation loss of {lost.loss:.4g}: the best of the others is published, so the "
        f"result is another than that of an undisturbed run"
    )
