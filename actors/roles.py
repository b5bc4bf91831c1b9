"""The roles of the loop's Protocols, played by pools of Ray actors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import ray
from ray import ObjectRef

from actors.experience import Given
from actors.pool import Pending, Pool, RemoteTensors
from rlhf.batch import PromptBatch, joined
from rlhf.interfaces import Collected, Kept, ScoredRollout
from rlhf.metrics import Metrics, merge
from rlhf.sampling.vllm_engine import Sampling
from rlhf.sound import SoundDirectory


class RemoteRollout:
    """A rollout whose shards lie where they were sampled, one per engine, rows in order."""

    def __init__(self, asked: PromptBatch, shards: list[ObjectRef], metrics: list[ObjectRef]) -> None:
        self.asked = asked
        self.shards = shards
        self._metrics = Pending(metrics, merge)

    def get(self) -> Metrics:
        return self._metrics.get()


class RemoteExperience:
    """An experience that lies where it was made."""

    def __init__(self, ref: ObjectRef, metrics: ObjectRef, kl_coef: float) -> None:
        self.ref = ref
        self.kl_coef = kl_coef
        self._metrics = Pending([metrics], merge)

    def get(self) -> Metrics:
        return self._metrics.get()


Residency = Callable[[], AbstractContextManager[None]]


class RemoteSampler:
    """vLLM engines; each samples a contiguous share of the prompts."""

    def __init__(self, pool: Pool, sampling: Sampling, residency: Residency = nullcontext) -> None:
        self.pool = pool
        self.sampling = sampling
        self.residency = residency

    def resident(self) -> AbstractContextManager[None]:
        """The engines hold their devices for the block; nothing happens where the devices are their own."""
        return self.residency()

    def generate(self, batch: PromptBatch, version: int) -> RemoteRollout:
        pairs = [
            self.pool.ask(rank, "generate", *self._asked(batch, start, end, version), results=2)
            for rank, (start, end) in enumerate(shares(len(batch), len(self.pool.actors)))
            if start < end
        ]
        return RemoteRollout(batch, [pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def _asked(self, batch: PromptBatch, start: int, end: int, version: int) -> tuple[Any, ...]:
        """What an engine is told of the rows from `start` to `end`."""
        token_ids = [prompt.token_ids for prompt in batch.prompts[start:end]]
        return token_ids, self.sampling, list(batch.seeds[start:end]), version

    def greedy(self) -> RemoteSampler:
        """The same, taking the most likely token each time."""
        return type(self)(self.pool, replace(self.sampling, temperature=0.0), self.residency)


class ConversationSampler(RemoteSampler):
    """Environments beside engines; each pair plays the episodes of a contiguous share of the prompts."""

    def _asked(self, batch: PromptBatch, start: int, end: int, version: int) -> tuple[Any, ...]:
        """An environment needs the prompts themselves."""
        return batch.rows(range(start, end)), self.sampling, version


def shares(count: int, parts: int) -> list[tuple[int, int]]:
    """`count` items as `parts` contiguous [start, end) ranges that differ by one at most."""
    edges = [count * k // parts for k in range(parts + 1)]
    return list(pairwise(edges))


class RemoteReward:
    """All parts of the reward, in the config's order; a rollout's scores are one tensor per rank of each part."""

    def __init__(self, parts: Sequence[RewardPool]) -> None:
        self.parts = parts

    def score(self, rollout: RemoteRollout) -> RemoteTensors:
        scored = [part.score(rollout) for part in self.parts]
        return RemoteTensors(
            [tensor for tensors in scored for tensor in tensors.parts],
            [receipt for tensors in scored for receipt in tensors.receipts],
        )


class RewardPool(Protocol):
    """The processes of one part of the reward."""

    def score(self, rollout: RemoteRollout) -> RemoteTensors: ...


@dataclass(frozen=True)
class TokenReward:
    """A reward model's ranks: they read tokens."""

    pool: Pool

    def score(self, rollout: RemoteRollout) -> RemoteTensors:
        return self.pool.call_tensors("score", *rollout.shards)


@dataclass(frozen=True)
class TextReward:
    """A process that reads text, and what the data says of the prompts."""

    pool: Pool

    def score(self, rollout: RemoteRollout) -> RemoteTensors:
        return self.pool.call_tensors("score", rollout.asked, *rollout.shards)


class RemoteReference:
    """The reference's ranks."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def logprobs(self, rollout: RemoteRollout) -> RemoteTensors:
        return self.pool.call_tensors("logprobs", *rollout.shards)


class RemoteTrained:
    """What the policy's and the critic's ranks have in common."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def update(self, experience: RemoteExperience, step: int) -> Pending[Metrics]:
        return self.pool.call_metrics("update", experience.ref, step)

    def save(self, directory: Path) -> Pending[None]:
        return self.pool.call_all("save", directory)

    def load(self, directory: SoundDirectory) -> Pending[None]:
        return self.pool.call_all("load", directory)


class RemotePolicy(RemoteTrained):
    """The policy's ranks."""

    def __init__(self, pool: Pool, kl_in_loss: bool) -> None:
        super().__init__(pool)
        self.kl_in_loss = kl_in_loss

    def logprobs(self, rollout: RemoteRollout) -> RemoteTensors:
        return self.pool.call_tensors("logprobs", *rollout.shards)

    def update(self, experience: RemoteExperience, step: int) -> Pending[Metrics]:
        if self.kl_in_loss:
            self.pool.call_all("set_kl_coef", experience.kl_coef).get()
        return super().update(experience, step)

    def export(self, directory: Path) -> Pending[None]:
        return self.pool.call_all("export", directory)


class RemoteCritic(RemoteTrained):
    """The critic's ranks."""

    def values(self, rollout: RemoteRollout) -> RemoteTensors:
        return self.pool.call_tensors("values", *rollout.shards)


class NoCritic:
    """Plays the critic where the method has none: knows no values, learns nothing, keeps nothing."""

    def values(self, rollout: RemoteRollout) -> RemoteTensors:
        return RemoteTensors([], [])

    def update(self, experience: RemoteExperience, step: int) -> Pending[Metrics]:
        return Pending([], merge)

    def save(self, directory: Path) -> Pending[None]:
        return Pending([], lambda _: None)

    def load(self, directory: SoundDirectory) -> Pending[None]:
        return Pending([], lambda _: None)


def given_of(collected: Collected, **passes: list) -> Given:
    """References to what was sampled and scored, and to the passes over it."""
    greedy = collected.greedy
    likely = (greedy.rollout.shards, greedy.scores.parts) if greedy else ((), ())
    return Given(
        collected.rollout.shards, collected.scores.parts, greedy_rollout=likely[0], greedy_scores=likely[1], **passes
    )


class RemoteExperienceMaker:
    """The experience maker's process."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def build(
        self, step: int, kl_coef: float, collected: Collected, logprobs: RemoteTensors, ref_logprobs: RemoteTensors,
        values: RemoteTensors,
    ) -> RemoteExperience:
        given = given_of(
            collected, logprobs=logprobs.parts, ref_logprobs=ref_logprobs.parts, values=values.parts
        )
        said = (step, kl_coef, collected.rollout.asked, given.counts())
        ref, metrics = self.pool.ask(0, "build", *said, *given.flat(), results=2)
        return RemoteExperience(ref, metrics, kl_coef)

    def keep(self, step: int, kept: Kept | None, sampled: ScoredRollout, limit: int) -> Kept:
        """The informative groups of a rollout beside those kept before; rows stay in the object store."""
        before = [kept.rollout.shards[0], kept.scores.parts[0]] if kept else []
        shards, scores = sampled.rollout.shards, sampled.scores.parts
        asked = joined([kept.rollout.asked, sampled.rollout.asked]) if kept else sampled.rollout.asked
        said = (step, asked, limit, len(before), len(shards))
        rollout, numbers, rows = self.pool.ask(0, "keep_informative", *said, *before, *shards, *scores, results=3)
        chosen = asked.rows(ray.get(rows))
        whole = RemoteRollout(chosen, [rollout], [])
        return Kept(whole, RemoteTensors([numbers], []), len(set(chosen.groups)))

    def save_transcripts(self, step: int, experience: RemoteExperience) -> Pending[None]:
        """Write rows of `experience`, which must be the one built last."""
        return Pending(self.pool.ask(0, "save_transcripts", step), lambda _: None)


