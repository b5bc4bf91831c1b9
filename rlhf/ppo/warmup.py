"""A policy that waits until the critic has learned what values are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf.interfaces import ExperienceHandle, Handle, Nothing, PolicyLearner, RolloutHandle, Tensors
from rlhf.metrics import Metrics
from rlhf.sound import SoundDirectory


@dataclass(frozen=True)
class WaitingPolicy:
    """Leaves the policy as it is in the first `idle_steps` steps."""

    policy: PolicyLearner
    idle_steps: int

    def update(self, experience: ExperienceHandle, step: int) -> Handle[Metrics]:
        return self.policy.update(experience, step) if step >= self.idle_steps else Nothing()

    def logprobs(self, rollout: RolloutHandle) -> Tensors:
        return self.policy.logprobs(rollout)

    def save(self, directory: Path) -> Handle[None]:
        return self.policy.save(directory)

    def load(self, directory: SoundDirectory) -> Handle[None]:
        return self.policy.load(directory)

    def export(self, directory: Path) -> Handle[None]:
        return self.policy.export(directory)
