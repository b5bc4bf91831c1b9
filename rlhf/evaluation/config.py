"""Stage `evaluate`: the config of a comparison of models on held-out prompts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlhf.device import Precision
from rlhf.ppo.config import SamplerConfig
from rlhf.stage import ActorStageConfig, Input, ModelInput

ModelName = Literal["base", "sft", "ppo"]


class EvaluateConfig(ActorStageConfig):
    """Samples every model on the same prompts under the same seeds; scores, KL and perplexity beside one another."""

    models: dict[ModelName, ModelInput] = Field(min_length=1, description="base, sft, ppo → directory or hub name")
    reward: ModelInput | None = Field(None, description="reward model that scores the responses")
    prompts: Input = Field(description="held-out prompts; a gold score is given where they carry a task")
    max_prompts: int | None = Field(None, gt=0, description="use the first so many prompts")
    greedy: bool = Field(True, description="also score the most likely response of each model")
    texts: list[Input] = Field([], description="text records for the perplexity of each model, by language")
    max_text_tokens: int = Field(256, gt=1, description="tokens of a text, at most, for perplexity")
    max_texts: int = Field(400, gt=0, description="texts per language, at most, for perplexity")
    micro_batch_tokens: int = Field(16384, gt=0, description="padded tokens of one scoring pass")
    precision: Precision = "float32"
    sampler: SamplerConfig = SamplerConfig()

    @model_validator(mode="after")
    def _reference_is_there(self) -> EvaluateConfig:
        if "ppo" in self.models and "sft" not in self.models:
            raise ValueError("models: 'ppo' is given without 'sft', the reference of its KL; add it")
        return self
