"""What a PPO run wrote on the way, put into what it publishes."""

from __future__ import annotations

import shutil

from actors.assembly import ROLLOUTS
from rlhf.artifacts import Draft
from rlhf.context import RunContext
from rlhf.metrics import read_json_lines

_KEPT = ("reward/score", "reward/turns", "reward/gold", "kl/per_response", "policy/entropy", "response/length_mean")


def add_records(context: RunContext, draft: Draft) -> None:
    """Copy metrics, transcripts and rollouts of a run; its last numbers go into the manifest."""
    shutil.copy(context.work / "metrics.jsonl", draft.path)
    for name in ("transcripts", ROLLOUTS):
        if (context.work / name).is_dir():
            shutil.copytree(context.work / name, draft.path / name)
    draft.metrics.update(_summary(read_json_lines(context.work / "metrics.jsonl")))


def _summary(rows: list[dict]) -> dict[str, float]:
    last = rows[-1]
    gaps = [row["sync/logprob_gap_max"] for row in rows if "sync/logprob_gap_max" in row]
    return {
        "steps": len(rows),
        **({"logprob_gap_max": max(gaps)} if gaps else {}),
        "seconds": sum(row.get("time/step", 0.0) for row in rows),
        **{name: last[name] for name in _KEPT if name in last},
    }
