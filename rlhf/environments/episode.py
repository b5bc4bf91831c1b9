"""An episode as it grows: the very tokens that the engine saw and sampled, in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from rlhf.batch import Rollout, from_completions
from rlhf.environments.environment import Environment
from rlhf.sampling.vllm_engine import Completion


@dataclass
class Episode:
    """Tokens behind the prompt, which of them were sampled, under which log-probability, and what each earned."""

    environment: Environment
    prompt: Sequence[int]
    seed: int
    tokens: list[int] = field(default_factory=list)
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    turns: int = 0
    open: bool = True
    finished: bool = False
    failed: bool = False

    @property
    def context(self) -> list[int]:
        """What the next response is sampled after."""
        return [*self.prompt, *self.tokens]

    def respond(self, completion: Completion, reward: float) -> None:
        """Add a response; the reward stands on its last token."""
        count = len(completion.token_ids)
        self._add(completion.token_ids, True, completion.logprobs)
        if count:
            self.rewards[-1] = reward
        self.turns += 1

    def observe(self, tokens: Sequence[int]) -> None:
        """Add what the policy reads: it is not trained on."""
        self._add(tokens, False, [0.0] * len(tokens))

    def end(self, finished: bool) -> None:
        """`finished`: by itself, and not because something was cut."""
        self.open, self.finished = False, finished

    def fail(self) -> None:
        """The environment has no more to say, and what it said is worth nothing."""
        self.end(finished=False)
        self.failed = True

    def _add(self, tokens: Sequence[int], sampled: bool, logprobs: Sequence[float]) -> None:
        self.tokens.extend(tokens)
        self.sampled.extend([sampled] * len(tokens))
        self.logprobs.extend(logprobs)
        self.rewards.extend([0.0] * len(tokens))


def turn_seed(seed: int, turn: int) -> int:
    """The seed of a turn's sampling; that of the first is the episode's own."""
    return (seed + turn * 0x9E3779B97F4A7C15) % 2**62


def rollout_of(episodes: Sequence[Episode], pad_token: int, version: int) -> Rollout:
    """All episodes as one right-padded rollout; the last token of one that failed is paid NaN."""
    whole = from_completions(
        [episode.prompt for episode in episodes], [episode.tokens for episode in episodes],
        [episode.logprobs for episode in episodes], [episode.finished for episode in episodes], pad_token, version,
    )
    response, paid = torch.zeros_like(whole.response_mask), torch.zeros_like(whole.sampler_logprobs)
    for row, episode in enumerate(episodes):
        start = len(episode.prompt)
        end = start + len(episode.tokens)
        response[row, start:end] = torch.tensor(episode.sampled, dtype=torch.bool)
        paid[row, start:end] = torch.tensor(episode.rewards)
        if episode.failed:
            paid[row, end - 1] = torch.nan
    return Rollout(
        whole.tokens, whole.attention_mask, response, whole.sampler_logprobs, whole.finished, version, paid
    )
