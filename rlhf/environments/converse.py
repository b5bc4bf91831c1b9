"""Episodes of many prompts at once: the engine answers all that are open, then the environments do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rlhf.batch import Prompt
from rlhf.environments.config import EnvironmentConfig
from rlhf.environments.environment import Turn
from rlhf.environments.episode import Episode, turn_seed
from rlhf.environments.guests import Failed
from rlhf.environments.turns import TurnTemplate
from rlhf.errors import RunError, UserError
from rlhf.rewards.config import Failures, StopOnFailure
from rlhf.rewards.sample import Failure, checked
from rlhf.sampling.vllm_engine import Completion, Sampling

Complete = Callable[[Sequence[Sequence[int]], Sequence[Sampling], Sequence[int]], Awaitable[list[Completion]]]


@dataclass(frozen=True)
class Conversation:
    """How turns are taken. `context` is the engine's, in tokens; `failures`, what an environment's error means."""

    config: EnvironmentConfig
    failures: Failures
    template: TurnTemplate
    tokenizer: Any
    sampling: Sampling
    context: int

    async def begin(self, episodes: Sequence[Episode], prompts: Sequence[Prompt]) -> None:
        """Reset the environments, all at once. Raises RunError as `run` does."""
        await asyncio.gather(*(self._begin(*pair) for pair in zip(episodes, prompts, strict=True)))

    async def _begin(self, episode: Episode, prompt: Prompt) -> None:
        with self._failing(episode):
            await self._within(episode.environment.reset(prompt), "reset", f"the prompt was {prompt.id}")

    async def run(self, episodes: Sequence[Episode], complete: Complete) -> None:
        """Play all episodes to their end. Raises RunError when an environment fails or does not answer in time, unless
        the config says to go on without that episode."""
        while asked := [episode for episode in episodes if episode.open]:
            contexts = [episode.context for episode in asked]
            room = [min(self.sampling.max_new_tokens, self.context - len(each)) for each in contexts]
            seeds = [turn_seed(episode.seed, episode.turns) for episode in asked]
            said = await complete(contexts, [replace(self.sampling, max_new_tokens=count) for count in room], seeds)
            await asyncio.gather(*(self._turn(*pair) for pair in zip(asked, said, strict=True)))

    async def _turn(self, episode: Episode, completion: Completion) -> None:
        """A response that was cut ends its episode: the environment hears only whole ones, and then pays nothing."""
        if not completion.finished:
            episode.respond(completion, 0.0)
            return episode.end(finished=False)
        text = self.tokenizer.decode(list(completion.token_ids), skip_special_tokens=True)
        turn = None
        with self._failing(episode):
            turn = await self._answer(episode, text)
        episode.respond(completion, turn.reward if turn else 0.0)
        if turn is None:
            return
        if turn.done:
            return episode.end(finished=True)
        observation = self.template.tokens(turn.observation)
        if episode.turns == self.config.max_turns or len(episode.context) + len(observation) >= self.context:
            return episode.end(finished=False)
        episode.observe(observation)

    @contextmanager
    def _failing(self, episode: Episode) -> Iterator[None]:
        """What an error of the environment means: the end of the run, or of the episode."""
        try:
            yield
        except RunError as error:
            if isinstance(self.failures, StopOnFailure):
                raise RunError(f"{error}; mend that, or set reward.failures.kind: skip") from error
            print(error, flush=True)  # in the actor's log
            episode.fail()

    async def _answer(self, episode: Episode, text: str) -> Turn:
        heard = f"the response was {text!r:.80}"
        turn = await self._within(episode.environment.step(text), "step", heard)
        if not isinstance(turn, Turn):
            raise RunError(f"environment: step answered {turn!r:.80}, which is no Turn; {heard}")
        paid = checked(turn.reward)
        if isinstance(paid, Failure):
            raise RunError(f"environment: step {paid.reason} as its reward; {heard}")
        return replace(turn, reward=paid)

    async def _within(self, answer: Awaitable[Any], method: str, heard: str) -> Any:
        """What an environment answers, in time."""
        task = asyncio.ensure_future(answer)
        done, _ = await asyncio.wait([task], timeout=self.config.timeout_s)
        if not done:
            task.cancel()
            limit = f"environment.timeout_s = {self.config.timeout_s:g} s"
            raise RunError(f"environment: {method} did not answer within {limit}; {heard}")
        try:
            return task.result()
        except UserError:
            raise
        except Failed as error:
            raise RunError(f"environment: {method} {error}; {heard}") from None
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise RunError(f"environment: {method} raised {said}; {heard}") from error
