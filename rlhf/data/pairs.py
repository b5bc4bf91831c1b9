"""Stage `pairs`: the config, and how sampled responses become labelled preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from pydantic import Field

from rlhf.ppo.config import SamplerConfig
from rlhf.stage import ActorStageConfig, Input, ModelInput


class PairsConfig(ActorStageConfig):
    """Samples several responses per prompt and lets the gold checker, with some noise, prefer one to another."""

    model: ModelInput = Field(description="language model that samples: directory or hub name")
    prompts: Input = Field(description="prompts with a checkable task")
    samples_per_prompt: int = Field(4, ge=2, description="responses of which pairs are made")
    pairs_per_prompt: int = Field(1, gt=0, description="different pairs of a prompt at most")
    max_prompts: int | None = Field(None, gt=0, description="use the first so many prompts")
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="share of the prompts whose pairs are held back")
    label_noise: float = Field(
        0.05, ge=0, lt=0.5, description="share of training pairs with the labels exchanged; validation has none"
    )
    sampler: SamplerConfig = SamplerConfig()


@dataclass(frozen=True)
class Sampled:
    """Responses to one prompt with their gold scores, 0 to 1."""

    prompt: list[Mapping[str, str]]
    lang: str
    responses: Sequence[str]
    golds: Sequence[float]


def preferences(sampled: Sampled, limit: int, random: Random) -> list[dict[str, Any]]:
    """Up to `limit` different pairs of responses with different gold scores, drawn at random."""
    judged = list(zip(sampled.responses, sampled.golds, strict=True))
    better = sorted({(a, b) for a, gold_a in judged for b, gold_b in judged if gold_a > gold_b})
    return [
        {"prompt": sampled.prompt, "chosen": chosen, "rejected": rejected, "lang": sampled.lang}
        for chosen, rejected in random.sample(better, min(limit, len(better)))
    ]


def with_noise(pairs: Sequence[dict[str, Any]], share: float, random: Random) -> Iterator[dict[str, Any]]:
    """Exchange chosen and rejected in about `share` of the pairs: what human labelling would look like."""
    for pair in pairs:
        if random.random() < share:
            yield {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}
        else:
            yield pair
