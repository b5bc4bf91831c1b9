"""Scores from a service over HTTP: batches, bounded concurrency, retries with back-off."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from rlhf.errors import ConfigError
from rlhf.rewards.config import HttpReward
from rlhf.rewards.hosts import VARIABLE, is_allowed
from rlhf.rewards.limits import UNLIMITED, Limits
from rlhf.rewards.sample import Failure, RewardSample, checked
from rlhf.rewards.transport import CheckedTransport, Forbidden
from rlhf.secrets import TokenPlace

TRIED_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
LONGEST_WAIT_S = 30.0
MOST_EXHAUSTED = 3  # batches of one call that may use up all their tries: then the rest of it is not asked
ANSWER_BYTES, ANSWER_BYTES_PER_SAMPLE = 65_536, 4_096  # an answer is not read beyond that


class _Failed(Exception):
    """A request that brought no scores; `again`: whether another try may."""

    def __init__(self, reason: str, again: bool) -> None:
        super().__init__(reason)
        self.again = again


@dataclass(frozen=True)
class _Call:
    """The requests of one call: their client, their places, and why batches that used up all their tries failed."""

    client: httpx.AsyncClient
    gate: asyncio.Semaphore
    exhausted: list[str] = field(default_factory=list)

    @property
    def is_given_up(self) -> bool:
        return len(self.exhausted) >= MOST_EXHAUSTED


@dataclass(frozen=True)
class HttpScorer:
    """The client. The service answers `{"samples": […]}` with `{"scores": […]}`, one number per sample, in order."""

    config: HttpReward
    token: str | None
    limits: Limits = UNLIMITED

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        return asyncio.run(self._all(samples))

    def close(self) -> None: ...

    async def _all(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        size = self.config.batch_size
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        transport = CheckedTransport(self.limits.hosts)
        async with httpx.AsyncClient(
            transport=transport, timeout=self.config.timeout_s, headers=headers, trust_env=False
        ) as client:
            call = _Call(client, asyncio.Semaphore(self.config.concurrency))
            batches = [samples[start : start + size] for start in range(0, len(samples), size)]
            answers = await asyncio.gather(*(self._batch(call, batch) for batch in batches))
        return [score for answer in answers for score in answer]

    async def _batch(self, call: _Call, batch: Sequence[RewardSample]) -> list[float | Failure]:
        """A batch keeps its place from try to try: so it is known early that the service answers none."""
        async with call.gate:
            if call.is_given_up:
                before = f"{len(call.exhausted)} batches before it failed, the last because {call.exhausted[-1]}"
                return [Failure(f"was not asked: {before}")] * len(batch)
            return await self._tried(call, batch)

    async def _tried(self, call: _Call, batch: Sequence[RewardSample]) -> list[float | Failure]:
        for attempt in range(self.config.retries + 1):
            try:
                return await self._ask(call.client, batch)
            except _Failed as failed:
                last = failed
            if not last.again or attempt == self.config.retries or call.is_given_up:
                break
            await asyncio.sleep(min(LONGEST_WAIT_S, self.config.backoff_s * 2**attempt))
        tries = "1 try" if attempt == 0 else f"{attempt + 1} tries"
        reason = f"{last} ({tries})"
        if last.again:
            call.exhausted.append(reason)
            print(f"{reason}: a batch of {len(batch)} has no score", flush=True)  # in the actor's log
        return [Failure(reason)] * len(batch)

    async def _ask(self, client: httpx.AsyncClient, batch: Sequence[RewardSample]) -> list[float | Failure]:
        url, limit = self.config.url, self.config.timeout_s
        try:
            async with asyncio.timeout(limit):
                status, body = await _post(client, url, {"samples": [sample.as_json() for sample in batch]}, len(batch))
        except (httpx.TimeoutException, TimeoutError):
            raise _Failed(f"{url} did not answer within {limit:g} s", again=True) from None
        except Forbidden as error:
            raise _Failed(f"{url}: {error}", again=False) from None
        except httpx.HTTPError as error:
            raise _Failed(f"{url}: {error or type(error).__name__}", again=True) from None
        except (httpx.InvalidURL, ValueError) as error:
            raise _Failed(f"{url}: the request cannot be sent: {error}", again=False) from None
        if status != httpx.codes.OK:
            said = " ".join(body.decode(errors="replace").split())[:200]
            raise _Failed(f"{url} answered {status}: {said}", status in TRIED_AGAIN)
        return _scores(url, body, len(batch))


async def _post(client: httpx.AsyncClient, url: str, content: dict[str, Any], samples: int) -> tuple[int, bytes]:
    """Status and body of the answer; one that is larger than scores can be is given up."""
    body, limit = bytearray(), ANSWER_BYTES + samples * ANSWER_BYTES_PER_SAMPLE
    async with client.stream("POST", url, json=content) as response:
        async for part in response.aiter_bytes():
            body += part
            if len(body) > limit:
                raise _Failed(f"{url} answered more than {limit:,} bytes for {samples} samples", again=False)
        return response.status_code, bytes(body)


def _scores(url: str, body: bytes, wanted: int) -> list[float | Failure]:
    try:
        answer: Any = json.loads(body)
        scores, errors = answer["scores"], answer.get("errors") or {}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _Failed(f'{url} answered without {{"scores": […]}}', again=False) from None
    if not isinstance(errors, dict):
        raise _Failed(f'{url} answered "errors" that are no object: index of the sample → text', again=False)
    if not isinstance(scores, list) or len(scores) != wanted:
        found = f"{len(scores)} scores" if isinstance(scores, list) else "no list of scores"
        raise _Failed(f"{url} answered {found} for {wanted} samples", again=False)
    return [
        Failure(f"{url}: {errors[str(k)]}") if score is None and str(k) in errors else checked(score)
        for k, score in enumerate(scores)
    ]


def http_scorer(config: HttpReward, key: str, limits: Limits = UNLIMITED) -> HttpScorer:
    """The client of a config. Raises ConfigError for a host that is not allowed, and when the token is not where the
    config says."""
    for entries in limits.hosts:
        if not is_allowed(config.url, entries):
            raise ConfigError(
                f"{key}.url: {config.url} is none of the allowed hosts ({', '.join(entries) or 'none is'}); they stand "
                f"in {VARIABLE}, which is the operator's, and in reward.allowed_hosts"
            )
    place = TokenPlace(config.token_env, config.token_file, (f"{key}.token_env", f"{key}.token_file"))
    return HttpScorer(config, place.read(), limits)
