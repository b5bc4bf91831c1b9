"""The parts of a reward and what happens to their scores, chosen by `kind`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from rlhf.config import Config
from rlhf.rewards.hosts import AllowedHost, is_allowed
from rlhf.roles import FrozenConfig, ScorerConfig
from rlhf.secrets import named_like_a_secret
from rlhf.stage import Input, ModelInput


class NoNormalisation(Config):
    """Scores as they are."""

    kind: Literal["none"] = "none"


class FixedNormalisation(Config):
    """(score − mean) / deviation with numbers of yours, those of a validation set for example."""

    kind: Literal["fixed"]
    mean: float = 0.0
    deviation: float = Field(1.0, gt=0)


class BatchNormalisation(Config):
    """(score − mean) / deviation over the rows of the step that have a score of this part."""

    kind: Literal["batch"]


Normalisation = NoNormalisation | FixedNormalisation | BatchNormalisation


class Contribution(Config):
    """What a part adds to the reward."""

    weight: float = Field(1.0, description="factor of its score in the sum")
    sources: list[str] | None = Field(
        None, min_length=1, description="data sources (column `source` of the prompts) that it scores; default: all"
    )
    normalise: Annotated[Normalisation, Field(discriminator="kind")] = NoNormalisation()

    def applies_to(self, sources: Sequence[str]) -> list[bool]:
        """Which samples it scores, by their data sources."""
        return [self.sources is None or source in self.sources for source in sources]


class ModelReward(ScorerConfig, Contribution):
    """Another learned reward model, with actors of its own."""

    kind: Literal["model"]


class FunctionReward(Contribution):
    """A Python function that takes a `RewardSample` and returns a number."""

    kind: Literal["function"]
    function: str = Field(description="module:function; or, with `file`, the function's name")
    file: Input | None = Field(None, description="Python file that holds the function")
    timeout_s: float = Field(60.0, gt=0, description="of one call, seconds; its process is ended then")
    pass_env: list[str] = Field(
        [], description="environment variables that it gets although they look like secrets (docs/rewards.md)"
    )


class HttpReward(Contribution):
    """A service that scores batches of samples (docs/rewards.md has its form)."""

    kind: Literal["http"]
    url: str = Field(pattern=r"^https?://", description="where batches are sent by POST")
    token_env: str | None = Field(None, description="environment variable that holds the bearer token")
    token_file: Path | None = Field(None, description="or a file that does, on every node (a mounted secret)")
    timeout_s: float = Field(60.0, gt=0, description="of one request, seconds")
    retries: int = Field(4, ge=0, le=1_000, description="further tries of a request that failed")
    backoff_s: float = Field(0.5, ge=0, description="wait before the first of them; it doubles each time, seconds")
    batch_size: int = Field(32, gt=0, description="samples of one request")
    concurrency: int = Field(4, gt=0, description="requests at once")

    @model_validator(mode="after")
    def _has_one_token(self) -> HttpReward:
        if self.token_env is not None and self.token_file is not None:
            raise ValueError("token_env and token_file are both given; keep one")
        return self

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            fine = bool(parts.hostname) and parts.port != 0  # reading the port checks it
        except ValueError as error:
            raise ValueError(f"no address: {error}") from None
        if not fine:
            raise ValueError("no address: it names no host or port 0")
        if parts.username is not None or parts.password is not None:
            raise ValueError("holds a user or password; put a token into an environment variable, named by token_env")
        for name, _ in parse_qsl(parts.query):
            if named_like_a_secret(name):
                raise ValueError(
                    f"holds a password or its like, under '{name}'; put a token into an environment variable, named by "
                    f"token_env"
                )
        return value


class ExactMatch(Contribution):
    """1 where the response is the prompt's `task.answer`, white space round both left out; else 0."""

    kind: Literal["exact_match"]


class NumberMatch(Contribution):
    """1 where the last number in the response equals the number `task.answer`; else 0."""

    kind: Literal["number_match"]


class PatternMatch(Contribution):
    """1 where a regular expression matches somewhere in the response; else 0."""

    kind: Literal["pattern"]
    pattern: str = Field(min_length=1, description="Python regular expression; . matches line ends, too")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value, re.DOTALL)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from None
        return value


class ValidJson(Contribution):
    """1 where the whole response is JSON; else 0."""

    kind: Literal["json"]


class TaskCheck(Contribution):
    """The gold checker of the made-up world of `data.source.kind tasks`: for experiments that want no reward model."""

    kind: Literal["task_checker"]


TextReward = FunctionReward | HttpReward | ExactMatch | NumberMatch | PatternMatch | ValidJson | TaskCheck
RewardPart = Annotated[ModelReward | TextReward, Field(discriminator="kind")]


class StopOnFailure(Config):
    """The first sample without a score stops the run."""

    kind: Literal["stop"] = "stop"


class SkipFailures(Config):
    """Samples without a score leave the step; too many of them stop the run."""

    kind: Literal["skip"]
    max_fraction: float = Field(0.1, gt=0, le=1, description="of the samples of a step that may fail")


Failures = StopOnFailure | SkipFailures


class RewardModelConfig(FrozenConfig, Contribution):
    """The reward model, and the parts that are added to it."""

    model: ModelInput | None = Field(None, description="directory or hub name of the reward model; null: parts alone")
    parts: dict[str, RewardPart] = Field({}, description="name → further rewards, summed with their weights")
    allowed_hosts: list[str] | None = Field(
        None, description="[https://]HOST[:PORT] or *.DOMAIN, those that services may have; null: any (docs/rewards.md)"
    )
    failures: Annotated[Failures, Field(discriminator="kind")] = StopOnFailure()

    @field_validator("parts")
    @classmethod
    def _plain_names(cls, parts: dict[str, Any]) -> dict[str, Any]:
        for name in parts:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name) or name == MODEL:
                raise ValueError(f"'{name}': name a part with letters, digits, _ and -, and not '{MODEL}'")
        return parts

    @field_validator("allowed_hosts")
    @classmethod
    def _are_hosts(cls, hosts: list[str] | None) -> list[str] | None:
        for text in hosts or ():
            AllowedHost.parse(text)
        return hosts

    @model_validator(mode="after")
    def _services_are_allowed(self) -> RewardModelConfig:
        for name, part in self.parts.items():
            if isinstance(part, HttpReward) and not is_allowed(part.url, self.allowed_hosts):
                raise ValueError(f"parts.{name}.url: {part.url} is none of allowed_hosts; add its host there")
        return self

    def contributions(self) -> dict[str, Contribution]:
        """Every part by name, the model first, as `model`, where there is one."""
        return {**({MODEL: self} if self.model is not None else {}), **self.parts}

    def learned(self) -> dict[str, ScorerConfig]:
        """The reward models by name."""
        found: dict[str, ScorerConfig] = {}
        if self.model is not None:
            kept = {name: getattr(self, name) for name in ScorerConfig.model_fields}
            found[MODEL] = ScorerConfig(**kept)
        return {**found, **{name: part for name, part in self.parts.items() if isinstance(part, ModelReward)}}


MODEL = "model"
