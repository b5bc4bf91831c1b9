"""Sample transcripts of a run as parquet, one file per saved step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.batch import Experience, Prompt, Rollout
from rlhf.ppo.experience import Passes, kl_per_response
from rlhf.rewards.total import Total
from rlhf.tasks import gold_score, is_checkable


def gold_scores(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
    """Gold score (0 to 100) of each response whose prompt carries a task of the gold checker, else None."""
    return [
        100.0 * gold_score(prompt.task, response) if is_checkable(prompt.task) else None
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def decode_responses(rollout: Rollout, tokenizer: Any) -> list[str]:
    """Text of what follows each prompt, observations included, special tokens left out."""
    follows = rollout.response_mask.cumsum(dim=1).bool() & rollout.attention_mask
    rows = zip(rollout.tokens, follows, strict=True)
    return tokenizer.batch_decode([row[mask].tolist() for row, mask in rows], skip_special_tokens=True)


@dataclass(frozen=True)
class Transcript:
    """What is known of the rows of a step: asked and answered, scored, and trained on."""

    prompts: Sequence[Prompt]
    responses: Sequence[str]
    rollout: Rollout
    passes: Passes
    reward: Total
    experience: Experience
    not_finite: Tensor  # [B] bool: some role computed for it what is not finite


def failures(transcript: Transcript) -> list[str]:
    """Row by row, why it trains nothing: parts of the reward that gave no score, `environment`, `not finite`, or
    `greedy`, the response to compare with."""
    found: list[str] = []
    for row, parts in enumerate(transcript.reward.without_score()):
        reasons = {
            "environment": transcript.reward.failed[row], "not finite": transcript.not_finite[row],
            "greedy": transcript.passes.failed[row],
        }
        found.append(", ".join(parts) or next((reason for reason, applies in reasons.items() if applies), ""))
    return found


def write_transcripts(directory: Path, step: int, limit: int, transcript: Transcript) -> Path:
    """Write the first `limit` rows of a step; a half-written file never carries the final name.

    `score` is empty for a response without one, and `failed` then names the parts of the reward that gave none. Where
    the reward has several parts, `score/NAME` is the score of each, before its weight.
    """
    import pandas as pd

    prompts, responses, rollout = transcript.prompts, transcript.responses, transcript.rollout
    reward = transcript.reward
    several = reward.shown() if len(reward.names) > 1 else {}
    frame = pd.DataFrame({
        "step": step,
        "prompt": [prompt.text for prompt in prompts],
        "response": list(responses),
        "score": transcript.passes.scores.masked_fill(transcript.passes.failed, float("nan")).tolist(),
        "failed": failures(transcript),
        **{f"score/{name}": scores.tolist() for name, scores in several.items()},
        "gold": pd.array(gold_scores(prompts, responses), dtype="Float64").to_numpy("float64", na_value=float("nan")),
        "kl": kl_per_response(rollout, transcript.experience).tolist(),
        "length": rollout.response_mask.sum(dim=1).tolist(),
        "finished": rollout.finished.tolist(),
        "lang": [prompt.lang for prompt in prompts],
        "source": [prompt.source for prompt in prompts],
    }).head(limit)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step_{step:06d}.parquet"
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary)
    temporary.replace(path)
    return path
