"""Published times of a part of a step: rollouts that one long response bounds, and weights on their way to engines.

Of these runs the sources do not say enough to plan a whole step. `python -m tests.plan.published_parts` prints the
table of docs/planning.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf.config import load
from rlhf.plan.assumptions import USUAL
from rlhf.plan.hardware import Gpu, parse_cluster
from rlhf.plan.limit import Work, decode, transfer
from rlhf.plan.phases import slowed
from rlhf.plan.plans import plan_ppo
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig
from tests.plan.published import H100, H200, dense

GPU_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "gpu"
MANY = 10_000  # GPUs: the other sequences cost nothing
NODE_NETWORK = 8 * 50e9  # bytes/s of the adapters of a node with eight H100


@dataclass(frozen=True)
class Tail:
    """One response of `tokens` tokens on one GPU: a step for each, which reads all weights."""

    name: str
    source: str
    seconds: float  # as published
    limit: float  # as derived by hand
    billions: float
    tokens: int
    gpu: Gpu

    def ours(self) -> tuple[float, float]:
        """Limit and expected time."""
        limit, attainable = (
            decode(dense(self.billions, 32, 4096, 1024), Work(1, 1, 1, self.tokens), gpu, MANY, 1)
            for gpu in (self.gpu, slowed(self.gpu, USUAL))
        )
        return limit, attainable / USUAL.systems


@dataclass(frozen=True)
class Transfer:
    """New weights of a model of some 70 billion parameters, between nodes."""

    name: str
    source: str
    seconds: float
    limit: float

    def ours(self) -> tuple[float, float]:
        """The limit of a node's adapters, and the phase `publish` of the 70B config."""
        config = load(PPOConfig, [GPU_CONFIGS / "ppo_llama3_70b_16nodes.yaml"])
        iteration = plan_ppo(config, parse_cluster("16x8xH100-80"), Sizes()).iteration
        assert iteration is not None
        publish = next(phase for phase in iteration.phases if phase.name == "publish")
        return transfer(2e9 * 70.6, NODE_NETWORK), publish.expected


_SKYRL, _OPENRLHF = "SkyRL docs/examples/spec_decode.mdx", "arXiv 2405.11143, Table 1"
_VERL = "verl docs/advance/delta_weight_sync.md"
PARTS: list[Tail | Transfer] = [
    Tail("rollout of 9B, 8,192 tokens, 8 H100", _SKYRL, 310, 44, 9.0, 8192, H100),
    Tail("the same with speculative decoding", _SKYRL, 152, 44, 9.0, 8192, H100),
    Tail("step of 7B, 8,192 tokens, 8 H200", _OPENRLHF, 226.4, 26, 7.6, 8192, H200),
    Tail("step of 14B, 8,192 tokens, 8 H200", _OPENRLHF, 328.6, 51, 14.8, 8192, H200),
    Transfer("weights of 72B, NCCL broadcast", _VERL, 28.8, 0.35),
    Transfer("weights of 72B, what changed", _VERL, 12.5, 0.35),
    Transfer("weights of 70B, shard to shard", "arXiv 2505.24034, a transcription", 1.15, 0.35),
]


def table() -> list[str]:
    """Limit by hand and ours, and what was published as a multiple of what we expect."""
    lines = ["| part of a step | published, s | limit by hand | our limit | expected | published / expected |"]
    lines.append("|---|---:|---:|---:|---:|---:|")
    for part in PARTS:
        limit, expected = part.ours()
        lines.append(
            f"| {part.name} | {part.seconds:g} | {part.limit:g} | {limit:.2f} | {expected:.1f} | "
            f"{part.seconds / expected:.2f} |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
