"""What a part of the reward was asked, and what it answered, kept where samples without a score end a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rlhf.rewards.sample import Failure, RewardSample


def save_samples(path: Path, samples: Sequence[RewardSample], answers: Sequence[float | Failure]) -> str:
    """What has become of the file, in words: a JSON line per sample, as a service gets it, with its `score`, or with
    `failed`, why it has none. That it could not be written must not hide why it was to be."""
    pairs = zip(samples, answers, strict=True)
    rows = [sample.as_json() | _answered(answer) for sample, answer in pairs]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, default=str) + "\n" for row in rows), encoding="ascii")
    except OSError as error:
        return f"could not be saved as {path} ({error})"
    return f"were saved as {path}"


def _answered(answer: float | Failure) -> dict[str, float | str]:
    return {"failed": answer.reason} if isinstance(answer, Failure) else {"score": answer}
