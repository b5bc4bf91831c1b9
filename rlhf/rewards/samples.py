"""A rollout as the samples that text rewards read."""

from __future__ import annotations

from typing import Any

from rlhf.batch import PromptBatch, Rollout
from rlhf.ppo.transcripts import decode_responses
from rlhf.rewards.sample import RewardSample


def samples_of(asked: PromptBatch, rollout: Rollout, tokenizer: Any) -> list[RewardSample]:
    """One sample per row, special tokens left out of the response."""
    rows = zip(asked.prompts, decode_responses(rollout, tokenizer), rollout.finished.tolist(), strict=True)
    return [
        RewardSample(
            prompt.id, prompt.text, prompt.messages, response, finished, prompt.lang, prompt.source, prompt.task
        )
        for prompt, response, finished in rows
    ]
