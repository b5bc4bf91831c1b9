"""Side (a), second half: the forward and training passes of one PPO iteration in plain torch and transformers.

    python tests/benchmarks/bare_torch.py WORKLOAD ROLLOUTS RESULT [--repeats 7] [--micro-batches 64 32 16 8]

Plain, but as a careful person would write it: rows right-padded (so that causal attention needs no mask),
logits over the whole vocabulary on response positions only, fused AdamW, one optimizer step over all rows. Every
pass runs with each micro-batch size given, and the fastest counts. No Ray, DeepSpeed or code of this project.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from measure import Timing, write_result
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Rows of a rollout: tokens [b, T] int64; response [b, T] bool; ends [b], the last token of each row."""

    tokens: Tensor
    response: Tensor
    ends: Tensor

    def split(self, rows: int) -> list[Batch]:
        """Consecutive micro-batches of `rows` rows, each cut to its longest row."""
        parts = []
        for start in range(0, len(self.tokens), rows):
            part = slice(start, start + rows)
            width = int(self.ends[part].max()) + 1
            parts.append(Batch(self.tokens[part, :width], self.response[part, :width], self.ends[part]))
        return parts


class Passes:
    """The models of PPO and their passes; each method goes through a whole batch, `rows` rows at a time."""

    def __init__(self, directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        def load(kind, name: str):
            return kind.from_pretrained(directory / name, dtype=torch.float32).eval()

        self.policy_model = load(AutoModelForCausalLM, "policy")
        self.reference_model = load(AutoModelForCausalLM, "policy")
        self.reward_model = load(AutoModelForSequenceClassification, "reward")
        self.critic_model = load(AutoModelForSequenceClassification, "reward")
        self.policy_adam = torch.optim.AdamW(self.policy_model.parameters(), lr=1e-6, fused=True)
        self.critic_adam = torch.optim.AdamW(self.critic_model.parameters(), lr=9e-6, fused=True)

    @torch.inference_mode()
    def reference(self, batch: Batch, rows: int) -> None:
        for part in batch.split(rows):
            _logprobs(self.reference_model, part)

    @torch.inference_mode()
    def old_logprobs(self, batch: Batch, rows: int) -> None:
        for part in batch.split(rows):
            _logprobs(self.policy_model, part)

    @torch.inference_mode()
    def reward(self, batch: Batch, rows: int) -> None:
        for part in batch.split(rows):
            hidden = self.reward_model.model(part.tokens, use_cache=False).last_hidden_state
            self.reward_model.score(hidden[torch.arange(len(part.ends)), part.ends])

    @torch.inference_mode()
    def values(self, batch: Batch, rows: int) -> None:
        for part in batch.split(rows):
            _values(self.critic_model, part)

    def policy_training(self, batch: Batch, rows: int) -> None:
        total = batch.response.sum()
        for part in batch.split(rows):
            logprobs = _logprobs(self.policy_model, part)
            advantages = torch.linspace(-1, 1, len(logprobs))
            ratio = (logprobs - logprobs.detach()).exp()
            clipped = ratio.clamp(0.8, 1.2)
            (-torch.minimum(ratio * advantages, clipped * advantages).sum() / total).backward()
        _step(self.policy_model, self.policy_adam)

    def critic_training(self, batch: Batch, rows: int) -> None:
        total = batch.response.sum()
        for part in batch.split(rows):
            values = _values(self.critic_model, part)
            returns = torch.linspace(-1, 1, len(values))
            clipped = values.detach() + (values - values.detach()).clamp(-0.2, 0.2)
            worst = torch.maximum((values - returns) ** 2, (clipped - returns) ** 2)
            (0.5 * worst.sum() / total).backward()
        _step(self.critic_model, self.critic_adam)

    def all(self) -> dict[str, Callable[[Batch, int], None]]:
        names = ("reference", "old_logprobs", "reward", "values", "policy_training", "critic_training")
        return {name: getattr(self, name) for name in names}


def _logprobs(model, batch: Batch) -> Tensor:
    """log-probabilities of the response tokens, [n] float32, nats."""
    hidden = model.model(batch.tokens, use_cache=False).last_hidden_state
    predicted = batch.response[:, 1:]
    logits = model.lm_head(hidden[:, :-1][predicted])
    return torch.log_softmax(logits, dim=-1).gather(1, batch.tokens[:, 1:][predicted][:, None]).squeeze(1)


def _values(model, batch: Batch) -> Tensor:
    """Values before each response token, [n] float32."""
    hidden = model.model(batch.tokens, use_cache=False).last_hidden_state
    return model.score(hidden[:, :-1][batch.response[:, 1:]]).squeeze(1)


def _step(model, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _batches(path: Path) -> list[Batch]:
    content = json.loads(path.read_text(encoding="utf-8"))
    return [_batch(content["prompts"], responses) for responses in content["responses"]]


def _batch(prompts: list[list[int]], responses: list[list[int]]) -> Batch:
    width = max(len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True))
    tokens = torch.zeros((len(prompts), width), dtype=torch.int64)
    response_mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    ends = []
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        end = len(prompt) + len(response)
        tokens[row, :end] = torch.tensor(prompt + response)
        response_mask[row, len(prompt) : end] = True
        ends.append(end - 1)
    return Batch(tokens, response_mask, torch.tensor(ends))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", type=Path)
    parser.add_argument("rollouts", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[64, 32, 16, 8])
    arguments = parser.parse_args()
    batches = _batches(arguments.rollouts)
    passes = Passes(arguments.workload).all()
    tried = {(name, rows): Timing() for name in passes for rows in arguments.micro_batches}
    for repeat in range(-1, arguments.repeats):
        batch = batches[repeat % len(batches)]
        for (name, rows), timing in tried.items():
            timing.time(lambda name=name, rows=rows, batch=batch: passes[name](batch, rows))
    for timing in tried.values():
        del timing.seconds[:1], timing.others[:1]
    best = {name: min(arguments.micro_batches, key=lambda rows: tried[name, rows].median) for name in passes}
    write_result(
        arguments.result,
        {name: tried[name, rows] for name, rows in best.items()},
        micro_batch_rows=best,
        all_medians={f"{name}/{rows}": timing.median for (name, rows), timing in tried.items()},
        threads=torch.get_num_threads(),
    )


if __name__ == "__main__":
    main()
