"""What a run does with NaN and infinities, chosen by `not_finite.kind`. Either way the batch is saved."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from rlhf.config import Config


class StopAtOnce(Config):
    """The run ends with a sentence; nothing was trained on the batch."""

    kind: Literal["stop"] = "stop"


class SkipBatch(Config):
    """What is not finite trains nothing: rows of a rollout leave the loss, and an optimizer step with such a loss or
    gradient changes no weight. Beyond the bounds the run ends."""

    kind: Literal["skip"]
    in_a_row: int = Field(3, ge=1, description="optimizer steps of a role that may be left out in a row")
    max_fraction: float = Field(
        0.05, gt=0, le=1, description="rows of a rollout that may be left out for the output of a role"
    )


NotFinite = Annotated[StopAtOnce | SkipBatch, Field(discriminator="kind")]
