"""The trained side of a role: what the rollout phase asks of the model, then the update on the experience.

Both passes go over the same rows in micro-batches by token budget. Where a step is one optimizer step and
its activations fit the budget, the first pass keeps its graph and the update goes backward through it: the
old policy is then the update's own, and running it twice would waste a forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from rlhf import partition
from rlhf.batch import Experience, Rollout, select
from rlhf.device import current
from rlhf.metrics import Mean, Metrics, merge
from rlhf.objectives.reduction import StepTotals, step_totals
from rlhf.ppo.algorithm import AlgorithmConfig
from rlhf.ppo.config import LearnerConfig
from rlhf.sound import SoundDirectory
from rlhf.training.average import WeightAverage
from rlhf.training.deepspeed_engine import DeepSpeedEngine
from rlhf.training.left_out import LeftOut, Step
from rlhf.training.loss import Loss
from rlhf.training.ptx import PtxLoss, predicted


class Objective(Protocol):
    """What distinguishes one trained role from another; its metrics are named `scope/…`."""

    role: str
    scope: str

    def output(self, model_output: object) -> Tensor:
        """The [B, T] float32 tensor that the rollout phase needs (log-probabilities or values)."""

    def loss(self, model_output: object, experience: Experience, totals: StepTotals) -> Loss:
        """The part of a micro-batch; `totals` are those of the whole step, over all ranks."""


@dataclass(frozen=True)
class Retained:
    """Micro-batches of a first pass whose graphs wait for the update."""

    rows: list[list[int]]
    outputs: list[object]


EPOCHS_APART = 1_009  # more epochs than anybody runs: no epoch of a step is shuffled as one of the next step


@dataclass(frozen=True)
class Extras:
    """What a learner does beside its objective: judging steps that are not finite, and, where the config asks for it,
    an average of the weights, and pretraining text mixed into every optimizer step."""

    left_out: LeftOut
    average: WeightAverage | None = None
    ptx: PtxLoss | None = None


class Learner:
    """One rank of a trained role."""

    def __init__(
        self, engine: DeepSpeedEngine, objective: Objective, config: LearnerConfig, algorithm: AlgorithmConfig,
        max_new_tokens: int, extras: Extras,
    ) -> None:
        self.engine = engine
        self.objective = objective
        self.config = config
        self.algorithm = algorithm
        self.max_new_tokens = max_new_tokens
        self.rank = dist.get_rank()
        self.left_out, self.average, self.ptx = extras.left_out, extras.average, extras.ptx
        self._retained: Retained | None = None

    def evaluate(self, rollout: Rollout) -> Tensor:
        """This rank's rows of log-probabilities or values, [b, T] float32 (b rows of `balance`)."""
        lengths = rollout.lengths()
        parts = partition.balance(lengths, self.engine.ranks)
        plan = partition.plan(lengths, parts, self.config.micro_batch_tokens)[self.rank]
        keep = self._keeps_graph(lengths, parts)
        self._retained = None
        self.engine.module.train(keep)
        outputs = []
        result = torch.zeros((len(parts[self.rank]), rollout.tokens.shape[1]))
        place = {row: k for k, row in enumerate(parts[self.rank])}
        for rows in plan:
            with torch.set_grad_enabled(keep):
                output = self._forward(rollout, rows)
            values = self.objective.output(output).detach().cpu()
            if rows:
                result[[place[row] for row in rows], : values.shape[1]] = values
            outputs.append(output if keep else None)
        if keep:
            self._retained = Retained(plan, outputs)
        return result

    def update(self, experience: Experience, step: int, seed: int) -> Metrics:
        """Epochs × minibatches optimizer steps.

        Raises NumericError, on every rank, when a loss or a gradient is not finite, or when more such steps follow each
        other than the config lets it pass over.
        """
        self.engine.module.train()
        parts_metrics = []
        for epoch in range(self.algorithm.epochs):
            chosen = partition.minibatches(len(experience), self.algorithm.minibatches, seed * EPOCHS_APART + epoch)
            for rows in chosen:
                parts_metrics.append(self._optimizer_step(experience, rows, step))
        self._retained = None
        return merge(parts_metrics)

    def _optimizer_step(self, experience: Experience, rows: Sequence[int], step: int) -> Metrics:
        totals = step_totals(experience.response_mask[list(rows)].sum(dim=1), self.max_new_tokens)
        if self._retained is not None:
            plan, outputs = self._retained.rows, self._retained.outputs
        else:
            plan, outputs = self._plan(experience, rows), None
        text = self._text()
        metrics: list[Metrics] = []
        failed: Experience | None = None
        for k, batch_rows in enumerate(plan):
            batch = self._to_device(select(experience, batch_rows or [rows[0]]))
            if not batch_rows:
                batch = _without_response(batch)
            output = outputs[k] if outputs is not None else self._run(batch)
            loss = self.objective.loss(output, batch, totals)
            total = loss.total
            if not bool(torch.isfinite(total.detach())):
                failed = batch if failed is None else failed
                total = total * math.nan  # so that its gradient is not finite either, and the step changes nothing
            last = batch
            self.engine.backward(total, last=k == len(plan) - 1 and not text)
            metrics.append(loss.metrics)
            if outputs is not None:
                outputs[k] = None
        metrics.extend(self._train_on_text(text))
        norm, rate = self.engine.step()
        if not math.isfinite(norm):
            return self.left_out.judge(Step(step, self.engine.steps_done, self.engine.left_out, failed, last))
        if self.average is not None:
            self.average.update()
        scope = self.objective.scope
        shared = {f"{scope}/grad_norm": norm, f"{scope}/learning_rate": rate}
        told = [self._on_rank_zero(name, value) for name, value in shared.items()]
        return merge([*metrics, *told, self.left_out.passed()])

    def _text(self) -> list[Tensor]:
        """This rank's micro-batches of pretraining text for the next optimizer step."""
        if self.ptx is None:
            return []
        return self.ptx.share(self.engine.steps_done, self.rank, self.engine.ranks, self.config.micro_batch_tokens)

    def _train_on_text(self, micro_batches: Sequence[Tensor]) -> list[Metrics]:
        metrics = []
        for k, tokens in enumerate(micro_batches):
            assert self.ptx is not None
            tokens = tokens.to(current())
            loss = self.ptx.loss(self.engine(tokens, predicted(tokens)), tokens)
            self.engine.backward(loss.total, last=k == len(micro_batches) - 1)
            metrics.append(loss.metrics)
        return metrics

    def save(self, directory: Path) -> None:
        """Write this rank's share of everything that training goes on from; all ranks call it."""
        self.engine.save(directory)
        if self.average is not None:
            self.average.save(directory, self.rank)

    def load(self, directory: SoundDirectory) -> None:
        """Take the state that `save` wrote with whatever number of ranks."""
        self.engine.load(directory)
        if self.average is not None:
            self.average.load(directory.path, self.rank)

    def _plan(self, experience: Experience, rows: Sequence[int]) -> list[list[int]]:
        """This rank's micro-batches of an optimizer step, as rows of the whole experience."""
        lengths = experience.attention_mask.sum(dim=1).tolist()
        parts = partition.balance([lengths[row] for row in rows], self.engine.ranks)
        absolute = [[rows[k] for k in part] for part in parts]
        return partition.plan(lengths, absolute, self.config.micro_batch_tokens)[self.rank]

    def _keeps_graph(self, lengths: Sequence[int], parts: Sequence[Sequence[int]]) -> bool:
        one_step = self.algorithm.epochs * self.algorithm.minibatches == 1
        plans = partition.plan(lengths, parts, self.config.micro_batch_tokens)
        budget = self.config.graph_tokens or self.config.micro_batch_tokens
        fits = max(sum(_padded(lengths, rows) for rows in plan) for plan in plans) <= budget
        # ZeRO-3 frees a layer's parameters after each forward pass and expects its backward before the next.
        one_pass = self.config.zero.stage < 3 or max(len(plan) for plan in plans) == 1
        return one_step and fits and one_pass

    def _forward(self, rollout: Rollout, rows: Sequence[int]) -> object:
        batch = select(rollout, rows or [0])
        mask = batch.response_mask if rows else torch.zeros_like(batch.response_mask)
        return self.engine(batch.tokens.to(current()), mask.to(current()))

    def _run(self, batch: Experience) -> object:
        return self.engine(batch.tokens, batch.response_mask)

    def _to_device(self, experience: Experience) -> Experience:
        device = current()
        if device.type == "cpu":
            return experience
        return Experience(**{name: tensor.to(device) for name, tensor in vars(experience).items()})

    def _on_rank_zero(self, name: str, value: float) -> Metrics:
        """A number that all ranks share counts once."""
        return {name: Mean(value, 1.0) if self.rank == 0 else Mean(0.0, 0.0)}


def _padded(lengths: Sequence[int], rows: Sequence[int]) -> int:
    """Tokens of a micro-batch, padding included."""
    return len(rows) * max((lengths[row] for row in rows), default=0)


def _without_response(batch: Experience) -> Experience:
    """The same shapes with nothing to train on: keeps a rank in step with the others' collectives."""
    from dataclasses import replace

    return replace(batch, response_mask=torch.zeros_like(batch.response_mask))
