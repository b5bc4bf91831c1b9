"""From a sampler's config to what an engine is built with and how it draws."""

from __future__ import annotations

from typing import Any

from rlhf.errors import ConfigError
from rlhf.ppo.config import SamplerConfig
from rlhf.sampling.vllm_engine import EngineOptions, Sampling


def context_sizes(sampler: SamplerConfig, model: Any, section: str) -> tuple[int, int]:
    """The engine's context, and the room that it leaves for a prompt, in tokens.

    `model` is a transformers config. Raises ConfigError, naming keys of `section`, when they do not fit it.
    """
    own = model.get_text_config().max_position_embeddings
    context = sampler.max_model_len or own
    if context > own:
        raise ConfigError(f"{section}.max_model_len: {context} is more than the model's context of {own} tokens")
    room = context - sampler.max_new_tokens
    if room < 1:
        raise ConfigError(
            f"{section}.max_new_tokens: {sampler.max_new_tokens} leaves no room for a prompt in the context of "
            f"{context} tokens; lower it, or raise {section}.max_model_len (the model allows {own})"
        )
    return context, room


def sampler_options(sampler: SamplerConfig, model: str, max_model_len: int) -> EngineOptions:
    """How an engine of `model` is built."""
    resources = sampler.resources
    return EngineOptions(
        model=model, max_model_len=max_model_len, precision=sampler.precision, max_sequences=sampler.max_sequences,
        kv_cache_gib=sampler.kv_cache_gib, gpu_memory_fraction=sampler.gpu_memory_fraction,
        tensor_parallel=sampler.tensor_parallel, prefix_caching=sampler.prefix_caching,
        threads=resources.torch_threads if not resources.gpus else None,
    )


def sampling_options(sampler: SamplerConfig, end_token: int) -> Sampling:
    """How each response is drawn."""
    return Sampling(sampler.max_new_tokens, sampler.temperature, sampler.top_p, sampler.top_k, (end_token,))
