"""Which environment a run has, chosen by `environment.kind`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from rlhf.config import Config
from rlhf.stage import Input


class EnvironmentConfig(Config):
    """What every environment has."""

    max_turns: int = Field(4, ge=1, description="responses of an episode at most; one that is not done by then is cut")
    observation_role: str = Field("user", description="role under which the chat template renders an observation")
    timeout_s: float = Field(60.0, gt=0, description="of one answer of the environment, seconds")


class Calculator(EnvironmentConfig):
    """The worked example: sums that a tool computes when it is asked `<calc>…</calc>`."""

    kind: Literal["calculator"]


class PythonEnvironment(EnvironmentConfig):
    """An environment of your own."""

    kind: Literal["python"]
    factory: str = Field(description="module:name of what makes an Environment; or, with `file`, its name there")
    file: Input | None = Field(None, description="Python file that holds it")
    options: dict[str, Any] = Field({}, description="keyword arguments of the factory")
    pass_env: list[str] = Field(
        [], description="environment variables that it gets although they look like secrets (docs/rewards.md)"
    )


AnyEnvironment = Annotated[Calculator | PythonEnvironment, Field(discriminator="kind")]
