"""Sample transcripts of a run as parquet, one file per saved step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf.batch import Experience, Prompt, Rollout
from rlhf.ppo.experience import kl_per_response
from rlhf.tasks import gold_score


def gold_scores(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float | None]:
    """Gold score (0 to 100) of each response whose prompt carries a checkable task, else None."""
    return [
        None if prompt.task is None else 100.0 * gold_score(prompt.task, response)
        for prompt, response in zip(prompts, responses, strict=True)
    ]


def decode_responses(rollout: Rollout, tokenizer: Any) -> list[str]:
    """Text of each response, special tokens left out."""
    rows = zip(rollout.tokens, rollout.response_mask, strict=True)
    return tokenizer.batch_decode([row[mask].tolist() for row, mask in rows], skip_special_tokens=True)


def write_transcripts(
    directory: Path, step: int, limit: int, prompts: Sequence[Prompt], responses: Sequence[str], rollout: Rollout,
    scores: Tensor, experience: Experience,
) -> Path:
    """Write the first `limit` rows of a step; a half-written file never carries the final name."""
    import pandas as pd

    frame = pd.DataFrame({
        "step": step,
        "prompt": [prompt.text for prompt in prompts],
        "response": list(responses),
        "score": scores.tolist(),
        "gold": pd.array(gold_scores(prompts, responses), dtype="Float64").to_numpy("float64", na_value=float("nan")),
        "kl": kl_per_response(rollout, experience).tolist(),
        "length": rollout.response_mask.sum(dim=1).tolist(),
        "finished": rollout.finished.tolist(),
        "lang": [prompt.lang for prompt in prompts],
    }).head(limit)
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"step_{step:06d}.parquet"
    temporary = path.with_suffix(".tmp")
    frame.to_parquet(temporary)
    temporary.replace(path)
    return path
