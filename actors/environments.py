"""Hosts of environments: asyncio workers beside the engines, one each."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from actors.process import RoleProcess
from rlhf.batch import PromptBatch, Rollout
from rlhf.metrics import Mean, Metrics, Sum
from rlhf.ppo.config import PPOConfig
from rlhf.roles import Resources
from rlhf.sampling.vllm_engine import Completion, Sampling


class EnvironmentProcess(RoleProcess):
    """Plays the episodes of one engine."""

    role = "environment"

    def __init__(self, rank: int, config: PPOConfig, engine: Any, context: int, pad_token: int) -> None:
        super().__init__(rank, Resources(cpus=0))
        from rlhf.environments.factory import environments_of
        from rlhf.environments.turns import TurnTemplate
        from rlhf.models.loading import load_tokenizer
        from rlhf.rewards.limits import limits_of

        assert config.environment is not None
        self.settings, self.failures = config.environment, config.reward.failures
        self.engine, self.context, self.pad_token = engine, context, pad_token
        self.tokenizer = load_tokenizer(config.policy.model)
        self.template = TurnTemplate(self.tokenizer, self.settings.observation_role)
        self.environments = environments_of(self.settings, limits_of(config.reward).hidden)

    async def at(self, step: int | None, method: str, *arguments: Any) -> Any:
        """Call a method, which may be a coroutine's, for a step."""
        found = super().at(step, method, *arguments)
        return await found if inspect.isawaitable(found) else found

    async def generate(self, asked: PromptBatch, sampling: Sampling, version: int) -> tuple[Rollout, Metrics]:
        """One episode per row, from the weights of `version`."""
        from rlhf.environments.converse import Conversation
        from rlhf.environments.episode import Episode, rollout_of

        async def complete(
            contexts: Sequence[Sequence[int]], samplings: Sequence[Sampling], seeds: Sequence[int]
        ) -> list[Completion]:
            return await self.engine.complete.remote(contexts, samplings, seeds, version)

        conversation = Conversation(
            self.settings, self.failures, self.template, self.tokenizer, sampling, self.context
        )
        async with self.environments.playing() as make:
            pairs = zip(asked.prompts, asked.seeds, strict=True)
            episodes = [Episode(make(), prompt.token_ids, seed) for prompt, seed in pairs]
            await conversation.begin(episodes, asked.prompts)
            await conversation.run(episodes, complete)
        rollout = rollout_of(episodes, self.pad_token, version)
        return rollout, {
            "rollout/tokens": Sum(float(rollout.response_mask.sum())),
            "rollout/turns": Mean(float(sum(episode.turns for episode in episodes)), float(len(episodes))),
        }
