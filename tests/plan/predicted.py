"""Published iteration times beside what `rlhf plan` prints for the same work: every phase of the predictor, with
optimizer steps, publication and the tail of the longest response, on the fastest layout that the planner finds.

`python -m tests.plan.predicted` prints the table of docs/planning.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlhf.config import merge, validate
from rlhf.plan.architecture import Architecture
from rlhf.plan.hardware import parse_cluster
from rlhf.plan.layouts import Layout, layouts
from rlhf.plan.models import require
from rlhf.plan.plans import Means
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig

QWEN3_32B = Architecture(
    "Qwen3-32B", 5120, 64, 64, 8, 128, 25_600, 151_936, tied=False, norms=True, context=40_960
)
NEVER = 1_000_000  # published step times hold no checkpoint

_MODEL = {"model": "of the row", "precision": "bfloat16"}
_BASE: dict[str, Any] = {
    "output": "ppo", "prompts": "prompts.jsonl", "policy": {**_MODEL, "micro_batch_tokens": 8192},
    "reference": _MODEL, "checkpoint_every": NEVER, "deadline_s": 1e5,
    "rollout": {"precision": "bfloat16", "max_sequences": 1024, "weight_sync": {"max_gap": 1.0}},
}
# 2,048 samples in optimizer steps of 512, rows of 4,096 tokens at most, 100 of them assumed to be the prompt's; the
# reward is a rule.
_GRPO = merge(_BASE, {
    "critic": None, "reward": {"parts": {"answer": {"kind": "number_match"}}},
    "ppo": {"advantage": {"kind": "grpo"}, "minibatches": 4, "correction": {"kind": "token_tis"}},
    "rollout": {
        "prompts_per_step": 64, "responses_per_prompt": 32, "max_prompt_tokens": 100, "max_new_tokens": 3996,
        "max_model_len": 4096,
    },
})
# Four models of one size, 1,024 rows of 1024 + 1024 tokens (the lengths are assumed), one optimizer step.
_PPO = merge(_BASE, {
    "critic": {**_MODEL, "micro_batch_tokens": 8192}, "reward": _MODEL,
    "rollout": {"prompts_per_step": 1024, "max_prompt_tokens": 1024, "max_new_tokens": 1024, "max_model_len": 2048},
})
_ASYNCHRONOUS = {"loop": {"kind": "asynchronous"}}
_DIVIDED = {"reference": {"divided": True}}  # else its weights are whole on every GPU that it is on
_PPO_DIVIDED = {**_DIVIDED, "reward": {"divided": True}}


@dataclass(frozen=True)
class Predicted:
    """A published run as a config of this platform; seconds."""

    name: str
    seconds: float
    cluster: str
    model: Architecture
    means: Means
    base: dict[str, Any]
    changes: dict[str, Any] = field(default_factory=dict)

    def config(self) -> PPOConfig:
        return validate(PPOConfig, merge(self.base, self.changes))

    def layout(self) -> Layout:
        """The fastest that fits."""
        return next(layouts(self.config(), parse_cluster(self.cluster), Sizes(override=self.model), self.means))


LLAMA_8B, LLAMA_70B, LLAMA2_7B = (require(name, "model") for name in ("Llama-3.1-8B", "Llama-3.1-70B", "Llama-2-7B"))
ROWS = [
    Predicted("8B GRPO, 16 H100", 97.7, "2x8xH100-80", LLAMA_8B, Means(100, 960), _GRPO),
    Predicted("8B GRPO, 1-off", 74.6, "2x8xH100-80", LLAMA_8B, Means(100, 1029), _GRPO, _ASYNCHRONOUS),
    Predicted("32B GRPO, 32 H100", 393, "4x8xH100-80", QWEN3_32B, Means(100, 3106), _GRPO, _DIVIDED),
    Predicted(
        "32B GRPO, 1-off, 64 H100", 215, "8x8xH100-80", QWEN3_32B, Means(100, 3107), _GRPO,
        {**_ASYNCHRONOUS, **_DIVIDED},
    ),
    Predicted("7B PPO, 16 A800", 471, "2x8xA800-80", LLAMA2_7B, Means(), _PPO),
    Predicted("7B PPO, 16 A800, later", 236.8, "2x8xA800-80", LLAMA2_7B, Means(), _PPO),
    Predicted("70B PPO, 32 A800", 4489, "4x8xA800-80", LLAMA_70B, Means(), _PPO, _PPO_DIVIDED),
]


def table() -> list[str]:
    """What was published as a multiple of what `rlhf plan` expects, and the layout that it expects it of."""
    lines = ["| run | published, s | the plan's layout | limit | expected | published / expected |"]
    lines.append("|---|---:|---|---:|---:|---:|")
    for row in ROWS:
        best = row.layout()
        limit, expected = (best.plan.iteration.total(kind) for kind in ("limit", "expected"))
        lines.append(
            f"| {row.name} | {row.seconds:g} | {best.change.words} | {limit:.1f} | {expected:.0f} | "
            f"{row.seconds / expected:.2f} |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
