"""vLLM engines for a stage that only samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from actors.placement import Placement
from actors.pool import Pool
from actors.roles import RemoteSampler
from actors.rollout import RolloutProcess
from rlhf.batch import Prompt, PromptBatch, Rollout, concatenate
from rlhf.ppo.config import SamplerConfig
from rlhf.sampling.options import sampler_options, sampling_options
from rlhf.sampling.vllm_engine import Sampling


@dataclass
class Engines:
    """Engines that hold the weights of one model directory at a time; `version` counts the changes."""

    pool: Pool
    sampling: Sampling
    pad_token: int
    version: int = -1

    def sample(self, prompts: Sequence[Prompt], seeds: Sequence[int], greedy: bool = False) -> Rollout:
        """One response per prompt, fetched here."""
        sampler = RemoteSampler(self.pool, self.sampling)
        asked = PromptBatch(prompts, seeds, range(len(prompts)))
        rollout = (sampler.greedy() if greedy else sampler).generate(asked, self.version)
        rollout.get()
        return concatenate(ray.get(rollout.shards), self.pad_token)

    def hold(self, directory: str) -> None:
        """Load another model of the same architecture."""
        self.version += 1
        self.pool.call_all("load_directory", directory, self.version).get()


@contextmanager
def engines(sampler: SamplerConfig, model: str, context: int, pad_token: int, end_token: int) -> Iterator[Engines]:
    """Start the engines of a config on `model`; stop them at the end."""
    placement = Placement({"rollout": sampler.resources})
    pool = None
    try:
        options = sampler_options(sampler, model, context)
        arguments = (options, sampler.resources, pad_token)
        pool = Pool.start("rollout", RolloutProcess, placement, sampler.resources, arguments)
        pool.call_all("ready").get()
        pool.locate()
        yield Engines(pool, sampling_options(sampler, end_token), pad_token)
    finally:
        if pool is not None:
            pool.stop()
        placement.remove()
