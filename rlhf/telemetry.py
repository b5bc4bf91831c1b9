"""The numbers of a run as Ray's metrics: on every node's metrics port, for Prometheus.

Names and tags are fixed here; a tag never holds a step, a prompt or anything else that grows with a run.
Ray forgets a gauge that is not set again within two of its reports (20 s by default), so that the numbers of a process
that is no more vanish; what is to stay is therefore said again and again.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from rlhf.at_hand import TAGS, Run

if TYPE_CHECKING:
    from ray.util.metrics import Gauge

NUMBERS = {
    "reward/score": ("rlhf_reward", "mean reward score of the responses of a step"),
    "reward/gold": ("rlhf_gold", "mean gold score of the responses of a step, of 100"),
    "reward/failed_fraction": ("rlhf_reward_failed_fraction", "share of responses without a score"),
    "kl/per_response": ("rlhf_kl_nats", "KL to the reference, nats per response"),
    "kl/coef": ("rlhf_kl_coefficient", "KL coefficient"),
    "policy/entropy": ("rlhf_entropy_nats", "entropy of the policy, nats per token"),
    "policy/clipfrac": ("rlhf_clip_fraction", "share of tokens whose probability ratio was clipped"),
    "policy/approx_kl": ("rlhf_update_kl_nats", "approximate KL of an update, nats per token"),
    "policy/grad_norm": ("rlhf_policy_gradient_norm", "gradient norm of the policy before clipping"),
    "value/explained_variance": ("rlhf_explained_variance", "explained variance of the critic"),
    "response/length_mean": ("rlhf_response_tokens", "mean length of a response"),
    "response/truncated_fraction": ("rlhf_truncated_fraction", "share of responses cut at the length limit"),
    "sync/logprob_gap_max": ("rlhf_logprob_gap_nats", "largest difference of sampler and learner on one token"),
    "mismatch/kl_k3": ("rlhf_mismatch_kl_nats", "learner against the older weights that sampled, nats per token"),
    "throughput/tokens_per_s": (
        "rlhf_tokens_per_second", "tokens per second of the whole step: of responses in PPO, else of examples"
    ),
    "rollout/waiting": ("rlhf_rollouts_waiting", "rollouts drawn or being drawn for later steps"),
    "rollout/staleness": ("rlhf_rollout_staleness", "weight updates between sampling and training"),
    "loss": ("rlhf_loss", "training loss of pretraining, SFT or the reward model, nats"),
    "validation_loss": ("rlhf_validation_loss", "their loss on the validation data, nats"),
    "learning_rate": ("rlhf_learning_rate", "their learning rate"),
    "grad_norm": ("rlhf_gradient_norm", "their gradient norm before clipping"),
}
"""Name in metrics.jsonl → Ray's name, to which it adds `ray_`, and meaning."""

_AGAIN_S = 4.0


class Repeated:
    """Calls a function every few seconds, in a thread, until it is closed."""

    def __init__(self, say: Callable[[], None], every_s: float = _AGAIN_S) -> None:
        self._say = say
        self._every_s = every_s
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._go, name="telemetry", daemon=True)
        self._thread.start()

    def _go(self) -> None:
        while not self._closed.wait(self._every_s):
            self._say()

    def close(self) -> None:
        """Returns when the function is called no more."""
        self._closed.set()
        self._thread.join()


class RayMetrics:
    """Watches a run for Prometheus. Ray must be initialised."""

    def __init__(self, run: Run) -> None:
        from ray.util.metrics import Gauge

        self._tags = run.tags
        self._numbers = {key: Gauge(name, meaning, TAGS) for key, (name, meaning) in NUMBERS.items()}
        self._seconds = Gauge("rlhf_phase_seconds", "wall time of a phase in the last step", (*TAGS, "phase"))
        self._phase = Gauge("rlhf_phase", "1 for the phase at hand, 0 for the others", (*TAGS, "phase"))
        self._step = Gauge("rlhf_step", "steps done", TAGS)
        self._steps = Gauge("rlhf_steps", "steps to be done in all", TAGS)
        self._ended = Gauge("rlhf_step_end_time_seconds", "when the last step ended, seconds since 1970", TAGS)
        self._restarts = Gauge("rlhf_restarts", "times that the run was begun anew from a checkpoint", TAGS)
        self._phases: set[str] = set()
        self._said: dict[tuple[Gauge, str], float] = {}
        self._one_at_a_time = threading.Lock()
        self._repeated = Repeated(self._say_again)

    def begin(self, step: int, total: int, restarts: int) -> None:
        """The run goes on after `step` of `total`."""
        for gauge, value in ((self._step, step), (self._steps, total), (self._restarts, restarts)):
            self._say(gauge, value)
        self._say(self._ended, time.time())

    def enter(self, phase: str) -> None:
        """A phase of a step begins."""
        self._phases.add(phase)
        for known in self._phases:
            self._say(self._phase, float(known == phase), known)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """The numbers of a step that has ended; what is not finite is left out."""
        self._say(self._step, step)
        self._say(self._ended, time.time())
        for key, value in numbers.items():
            if key in self._numbers and math.isfinite(value):
                self._say(self._numbers[key], value)
            elif key.startswith("time/"):
                self._say(self._seconds, value, key.removeprefix("time/"))

    def close(self) -> None:
        """The run is over."""
        self._repeated.close()

    def _say(self, gauge: Gauge, value: float, phase: str = "") -> None:
        with self._one_at_a_time:
            self._said[gauge, phase] = value
            self._tell(gauge, value, phase)

    def _say_again(self) -> None:
        with self._one_at_a_time:
            for (gauge, phase), value in self._said.items():
                self._tell(gauge, value, phase)

    def _tell(self, gauge: Gauge, value: float, phase: str) -> None:
        gauge.set(value, {**self._tags, "phase": phase} if phase else self._tags)
