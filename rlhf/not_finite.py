"""What a run does with NaN and infinities, chosen by `not_finite.kind`. Either way the batch is saved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlhf.config import Config


class StopAtOnce(Config):
    """The run ends with a sentence; nothing was trained on the batch."""

    kind: Literal["stop"] = "stop"


class SkipSteps(Config):
    """An optimizer step with a loss or gradient that is not finite changes no weight. Beyond the bound the run ends."""

    kind: Literal["skip"]
    in_a_row: int = Field(3, ge=1, description="optimizer steps of a model that may be left out in a row")


class SkipBatch(SkipSteps):
    """The same, and rows of a rollout that are not finite leave the loss. Beyond the bounds the run ends."""

    max_fraction: float = Field(
        0.05, gt=0, le=1, description="rows of a rollout that may be left out for the output of a role"
    )


NotFiniteSteps = Annotated[StopAtOnce | SkipSteps, Field(discriminator="kind")]
NotFinite = Annotated[StopAtOnce | SkipBatch, Field(discriminator="kind")]
