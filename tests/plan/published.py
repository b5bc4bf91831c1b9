"""Published iteration times, their limits, and what this planner would have predicted.

The figures were collected from the sources named in each row; `limit` and `attainable` were derived there with the
same model, by hand. `python -m tests.plan.published` prints the table of docs/planning.md.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rlhf.plan.assumptions import USUAL
from rlhf.plan.hardware import GPUS, Gpu
from rlhf.plan.limit import Costs, Work, decode, prefill, score, train
from rlhf.plan.phases import slowed

H100 = replace(GPUS["H100-80"], flops=990e12)
H200 = replace(GPUS["H200-141"], flops=990e12)
A800 = GPUS["A800-80"]


def dense(billions: float, layers: int, width: int, kv_width: int) -> Costs:
    """Of a dense bfloat16 model: parameters, layers, width of all query heads, width of all key heads."""
    return Costs(billions * 1e9, 2e9 * billions, 4.0 * layers * kv_width, 2.0 * layers * width)


LLAMA_8B = dense(8.03, 32, 4096, 1024)
LLAMA_70B = dense(70.6, 80, 8192, 1024)
LLAMA2_7B = dense(6.74, 32, 4096, 4096)
QWEN3_32B = dense(32.76, 64, 8192, 1024)
QWEN3_30B_A3B = Costs(3.35e9, 61e9, 4.0 * 48 * 512, 2.0 * 48 * 4096)
PPO_ROWS = Work(1024, 1024, 1024, 1024)


@dataclass(frozen=True)
class Published:
    """A run that somebody published, or a worked example; seconds."""

    name: str
    source: str
    gpu: Gpu
    gpus: int
    tensor_parallel: int
    model: Costs
    work: Work
    scores: int  # forward passes over all rows
    trains: int  # models trained
    limit: float  # as derived by hand
    attainable: float
    seconds: float | None = None  # as published
    overlapped: bool = False  # rollouts beside training: the longest response is off the critical path
    flops_share: float = USUAL.flops

    def parts(self, gpu: Gpu) -> tuple[float, float, float, float]:
        """Decode, prefill, scoring, training."""
        work = replace(self.work, longest=0) if self.overlapped else self.work
        return (
            decode(self.model, work, gpu, self.gpus, self.tensor_parallel), prefill(self.model, work, gpu, self.gpus),
            self.scores * score(self.model, work, gpu, self.gpus),
            self.trains * train(self.model, work, gpu, self.gpus),
        )

    def ours(self) -> tuple[float, float, float]:
        """Limit, attainable and expected time."""
        attainable = sum(self.parts(slowed(self.gpu, replace(USUAL, flops=self.flops_share))))
        return sum(self.parts(self.gpu)), attainable, attainable / USUAL.systems


_NEMO = "NeMo-RL docs/about/performance-summary.md"
_OPENRLHF = "OpenRLHF README 2024, lengths assumed"
ROWS = [
    Published("8B PPO, 8 H100", "worked", H100, 8, 1, LLAMA_8B, PPO_ROWS, 4, 2, 58.9, 119),
    Published("8B PPO, 16 H100", "worked", H100, 16, 1, LLAMA_8B, PPO_ROWS, 4, 2, 31.9, 63),
    Published("8B PPO, 8 H200", "worked", H200, 8, 1, LLAMA_8B, PPO_ROWS, 4, 2, 55.0, 114),
    Published("70B PPO, 32 H100", "worked", H100, 32, 4, LLAMA_70B, PPO_ROWS, 4, 2, 115.6, 243),
    Published("70B PPO, 64 H100", "worked", H100, 64, 4, LLAMA_70B, PPO_ROWS, 4, 2, 63.2, 129),
    Published("70B PPO, 64 H200", "worked", H200, 64, 4, LLAMA_70B, PPO_ROWS, 4, 2, 59.2, 123),
    Published("8B GRPO, 16 H100", _NEMO, H100, 16, 1, LLAMA_8B, Work(2048, 100, 960, 4096), 1, 1, 28.8, 46.5, 97.7),
    Published(
        "8B GRPO, 1-off", _NEMO, H100, 16, 1, LLAMA_8B, Work(2048, 100, 1029, 4096), 1, 1, 17.9, 32.5, 74.6, True
    ),
    Published("32B GRPO, 32 H100", _NEMO, H100, 32, 4, QWEN3_32B, Work(2048, 100, 3106, 0), 1, 1, 97.5, 180, 393),
    Published(
        "32B GRPO, 1-off, 64 H100", _NEMO, H100, 64, 4, QWEN3_32B, Work(2048, 100, 3106, 0), 1, 1, 56.4, 100, 215, True
    ),
    Published(
        "30B-A3B GRPO, 32 H100", _NEMO, H100, 32, 2, QWEN3_30B_A3B, Work(2048, 100, 3103, 0), 1, 1, 43.9, 70.6, 192,
        flops_share=0.30,
    ),
    Published(
        "30B-A3B GRPO, 1-off", _NEMO, H100, 32, 2, QWEN3_30B_A3B, Work(2048, 100, 3103, 0), 1, 1, 43.9, 70.6, 152, True,
        flops_share=0.30,
    ),
    Published("7B PPO, 16 A800", _OPENRLHF, A800, 16, 1, LLAMA2_7B, PPO_ROWS, 4, 2, 94.4, 181, 471),
    Published("7B PPO, 16 A800, later", "arXiv 2405.11143", A800, 16, 1, LLAMA2_7B, PPO_ROWS, 4, 2, 94.4, 181, 236.8),
    Published("70B PPO, 32 A800", _OPENRLHF, A800, 32, 4, LLAMA_70B, PPO_ROWS, 4, 2, 343, 739, 4489),
]


def table() -> list[str]:
    """Limit by hand and ours, and what was published as a multiple of what we expect."""
    head = "| run | published, s | limit by hand | our limit | attainable | expected | published / expected |"
    lines = [head, "|---|---:|---:|---:|---:|---:|---:|"]
    for row in ROWS:
        limit, attainable, expected = row.ours()
        seconds = f"{row.seconds:g}" if row.seconds else "-"
        ratio = f"{row.seconds / expected:.2f}" if row.seconds else "-"
        lines.append(
            f"| {row.name} | {seconds} | {row.limit:g} | {limit:.1f} | {attainable:.0f} | {expected:.0f} | {ratio} |"
        )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
