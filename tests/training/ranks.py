"""Learners on real DeepSpeed ranks, one process each, and the batches that they are compared on."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlhf.batch import Experience, Rollout, from_completions, scatter_rows, select
from rlhf.config import merge, validate
from rlhf.errors import NumericError
from rlhf.partition import balance
from rlhf.ppo.config import PPOConfig
from rlhf.sound import SoundDirectory

VOCABULARY = 250  # all tiny models know more tokens
LARGE, SMALL = 100_000, 96  # padded tokens of a micro-batch: all rows at once, and a few
# (prompt, response) lengths. `mixed` is cut into two micro-batches even under a large budget, `even` is not, and
# under a small budget `lopsided` leaves one of two ranks with most micro-batches empty.
BATCHES = {
    "mixed": [(20, 40)] * 20 + [(4, 8)] * 27 + [(1, 1)],
    "even": [(6, 18), (8, 17), (3, 20), (7, 18), (5, 19), (2, 23)],
    "lopsided": [(30, 70)] + [(3, 7)] * 10,
    "single": [(5, 9)],
}


@dataclass(frozen=True)
class Case:
    """One way to make the same update."""

    ranks: int = 1
    stage: int = 0
    role: str = "policy"
    batch: str = "mixed"
    tied: bool = True
    budget: int = LARGE
    graph: int | None = None
    shuffled: bool = False
    padding: int = 0
    evaluate_first: bool = True
    epochs: int = 1
    minibatches: int = 1
    gradient_checkpointing: bool = False
    updates: int = 2
    good: int = 0  # of the first updates, before the spoilt ones
    spoilt: int = 0  # updates with advantages that are NaN in a row
    infinite: bool = False  # or with finite losses, and on rank 0 a weight whose gradient is infinite
    equal: bool = False  # advantages are 0, as in a group with equal rewards: so is the gradient of the policy
    empty: bool = False  # no token counts, as where every row is left out: so is any gradient
    weight_decay: float = 0.0
    skips: int | None = None  # updates in a row that may be left out; None: none, the run stops
    lora: bool = False
    precision: str = "float32"
    ema_decay: float | None = None


@dataclass
class Outcome:
    """Weights after the updates by transformers name, metrics of the last, and what the first pass answered."""

    weights: dict[str, Tensor]
    metrics: list[dict[str, Any]]
    evaluated: Tensor | None
    kept_graph: bool
    first_weights: dict[str, Tensor] = field(default_factory=dict)
    averages: dict[str, Tensor] = field(default_factory=dict)  # by name, as the last update left them
    optimizer: list[Tensor] = field(default_factory=list)  # this rank's masters, each with Adam's count and moments


def config_of(case: Case, models: Any, output: Path) -> PPOConfig:
    """Adam with a large ε moves every weight in proportion to its gradient: a small ε would magnify noise."""
    optimizer = {
        "learning_rate": 0.05, "epsilon": 0.005, "max_grad_norm": 0.1, "warmup_fraction": 0.0,
        "weight_decay": case.weight_decay,
    }
    learner = {
        "model": str(models.tied if case.tied else models.untied),
        "optimizer": optimizer, "zero": {"stage": case.stage},
        "micro_batch_tokens": case.budget, "graph_tokens": case.graph,
        "gradient_checkpointing": case.gradient_checkpointing, "precision": case.precision,
        "resources": {"ranks": case.ranks},
    }
    reward = {"model": str(models.reward)}
    return validate(PPOConfig, {
        "output": str(output), "prompts": str(models.prompts), "steps": 10,
        "policy": merge(learner, {"lora": {"rank": 4} if case.lora else None, "ema_decay": case.ema_decay}),
        "critic": merge(learner, reward), "reference": {"model": learner["model"]}, "reward": reward,
        "not_finite": {"kind": "stop"} if case.skips is None else {"kind": "skip", "in_a_row": case.skips},
        "ppo": {"epochs": case.epochs, "minibatches": case.minibatches},
        "rollout": {"prompts_per_step": 8, "weight_sync": {"max_gap": 1.0}},
    })


def batch_of(case: Case, vocabulary: int, spoilt: bool = False) -> tuple[Rollout, Experience]:
    """Numbers that depend on the row, not on its place, so that order and padding can change alone."""
    lengths = BATCHES[case.batch]
    draw = random.Random(case.batch)
    prompts = [[draw.randrange(3, vocabulary) for _ in range(prompt)] for prompt, _ in lengths]
    responses = [[draw.randrange(3, vocabulary) for _ in range(response)] for _, response in lengths]
    rollout = from_completions(prompts, responses, [[0.0] * len(r) for r in responses], [True] * len(lengths), 0, 0)
    generator = torch.Generator().manual_seed(1)
    numbers = torch.randn(7, *rollout.tokens.shape, generator=generator) * rollout.response_mask
    # Near the log-probability and value of an untrained model, so that some tokens are clipped and some are not.
    numbers[0] = (numbers[0] * 0.3 - math.log(vocabulary)) * rollout.response_mask
    numbers[2] = numbers[2] * 0.3
    numbers[6] = rollout.response_mask.float()
    if case.equal:
        numbers[4] = 0.0
    if spoilt and not case.infinite:
        numbers[4:6, 0, lengths[0][0]] = float("nan")
    mask = rollout.response_mask & (not case.empty)
    experience = Experience(rollout.tokens, rollout.attention_mask, mask, *numbers)
    order = order_of(case)
    return _widen(select(rollout, order), case.padding), _widen(select(experience, order), case.padding)


def order_of(case: Case) -> list[int]:
    """Row of `BATCHES` that stands in each place."""
    order = list(range(len(BATCHES[case.batch])))
    if case.shuffled:
        random.Random("order").shuffle(order)
    return order


def _widen(batch: Any, padding: int) -> Any:
    grown = {n: t for n, t in vars(batch).items() if isinstance(t, Tensor) and t.dim() == 2}
    return replace(batch, **{name: torch.nn.functional.pad(tensor, (0, padding)) for name, tensor in grown.items()})


class LearnerRank:
    """A process that is one rank of a role, for one case after another."""

    def __init__(self, rank: int) -> None:
        torch.set_num_threads(1)
        self.rank = rank

    def meeting_place(self) -> tuple[str, int]:
        from actors.process import RoleProcess

        return RoleProcess.meeting_place(self)  # type: ignore[arg-type]

    def join(self, count: int, address: str, port: int) -> None:
        from rlhf.training.ranks import Rank, join_ranks

        join_ranks(Rank(self.rank, count, address, port))

    def run(self, case: Case, models: Any, output: Path, saved: Path | None = None) -> Outcome:
        """Build a learner and make the updates of a case; with `saved`, save after the first and load into another."""
        learner, model = self._build(case, models, output)
        rollout, experience = batch_of(case, model.config.vocab_size)
        _, spoilt = batch_of(case, model.config.vocab_size, spoilt=True)
        evaluated, kept, metrics, first = None, False, [], {}
        for update in range(case.updates):
            if case.evaluate_first:
                answer = learner.evaluate(rollout)
                evaluated = answer if evaluated is None else evaluated
                kept = kept or learner._retained is not None
            is_spoilt = case.good <= update < case.good + case.spoilt
            with self._spoiling(learner, case.infinite and is_spoilt):
                metrics.append(dict(learner.update(spoilt if is_spoilt else experience, update, seed=update)))
            if update == 0:
                first = self._weights(learner, model)
            if update == 0 and saved is not None:
                learner.save(saved)
                learner, model = self._build(case, models, output)
                learner.load(SoundDirectory(saved))
        averages = self._averages(learner, model)
        return Outcome(
            self._weights(learner, model), metrics, evaluated, kept, first, averages, self._optimizer(learner)
        )

    def stopped(self, case: Case, models: Any, output: Path) -> tuple[str, bool]:
        """Make a good update, and a spoilt one that ends the run: what is said, and whether all is as it was before."""
        learner, model = self._build(case, models, output)
        learner.update(batch_of(case, model.config.vocab_size)[1], 0, seed=0)
        before = [*self._weights(learner, model).values(), *self._optimizer(learner)]
        with pytest.raises(NumericError) as ended, self._spoiling(learner, case.infinite):
            learner.update(batch_of(case, model.config.vocab_size, spoilt=True)[1], 1, seed=1)
        after = [*self._weights(learner, model).values(), *self._optimizer(learner)]
        return str(ended.value), all(torch.equal(*pair) for pair in zip(before, after, strict=True))

    def first_half(self, case: Case, models: Any, output: Path, saved: Path) -> None:
        """Make the first update of a case, if it has any, and save."""
        learner, model = self._build(case, models, output)
        if case.updates:
            learner.update(batch_of(case, model.config.vocab_size)[1], 0, seed=0)
        learner.save(saved)

    def second_half(self, case: Case, models: Any, output: Path, saved: Path) -> dict[str, Tensor]:
        """Load what any number of ranks has saved, and make the second update: weights afterwards."""
        return self._weights(*self._second_half(case, models, output, saved))

    def second_average(self, case: Case, models: Any, output: Path, saved: Path) -> dict[str, Tensor]:
        """The same: averages of the weights afterwards."""
        return self._averages(*self._second_half(case, models, output, saved))

    def _second_half(self, case: Case, models: Any, output: Path, saved: Path) -> tuple[Any, Any]:
        learner, model = self._build(case, models, output)
        learner.load(SoundDirectory(saved))
        learner.update(batch_of(case, model.config.vocab_size)[1], 1, seed=1)
        return learner, model

    def step(self, role: str, config: PPOConfig, experience: Experience) -> tuple[dict[str, Tensor], Any]:
        """Make the optimizer steps of one experience: weights afterwards by transformers name, and metrics."""
        from rlhf.training.build import build_learner

        learner, model = build_learner(role, config, Path(config.output))
        metrics = learner.update(experience, 0, seed=0)
        return self._weights(learner, model), metrics

    def frozen(self, case: Case, models: Any, output: Path, role: str) -> tuple[list[int], Tensor, int]:
        """What a frozen model answers whose weights are divided: rows, numbers, and weights held here."""
        from rlhf.models.heads import PolicyModel, SequenceScorer
        from rlhf.models.loading import load_causal_lm, load_reward_model
        from rlhf.ppo.scoring import Passes, reference_logprobs, reward_scores
        from rlhf.training.divided import divided, dividing

        rollout, _ = batch_of(case, VOCABULARY)
        passes = Passes.together(rollout, case.budget, self.rank, case.ranks)
        with dividing("float32"):
            if role == "reference":
                module = PolicyModel(load_causal_lm(models.tied if case.tied else models.untied, torch.float32), 1.0)
            else:
                module = SequenceScorer(load_reward_model(models.reward, torch.float32))
        held = sum(parameter.ds_tensor.numel() for parameter in module.parameters())
        model = divided(module, "float32")
        if role == "reference":
            return list(passes.rows), reference_logprobs(model, rollout, passes), held
        return list(passes.rows), reward_scores(model, rollout, passes, end_token=2), held

    def names(self, case: Case, models: Any, output: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What would be sent to the sampler, and what transformers itself says are the model's weights."""
        from rlhf.models.loading import load_causal_lm

        learner, model = self._build(case, models, output)
        sent = self._weights(learner, model)
        own = load_causal_lm(config_of(case, models, output).policy.model, torch.float32).state_dict()
        return sent, own

    def _build(self, case: Case, models: Any, output: Path) -> tuple[Any, Any]:
        from rlhf.training.build import build_learner

        return build_learner(case.role, config_of(case, models, output), output)

    @contextmanager
    def _spoiling(self, learner: Any, infinite: bool) -> Iterator[None]:
        """Within, the gradient of a weight is infinite on rank 0."""
        if not infinite or self.rank:
            yield
            return
        weight = next(weight for weight in learner.engine.module.parameters() if weight.requires_grad)
        hook = weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
        try:
            yield
        finally:
            hook.remove()

    def _averages(self, learner: Any, model: Any) -> dict[str, Tensor]:
        if learner.average is None:
            return {}
        with learner.average.in_place():
            return self._weights(learner, model)

    def _optimizer(self, learner: Any) -> list[Tensor]:
        state = learner.engine.optimizer.state
        return [tensor.detach().clone() for master, kept in state.items() for tensor in (master, *kept.values())]

    def _weights(self, learner: Any, model: Any) -> dict[str, Tensor]:
        from rlhf.training.weights import named_weights

        return {name: tensor.clone() for name, tensor in named_weights(learner.engine, model)}


def join_evaluated(outcomes: Sequence[Outcome], case: Case) -> Tensor:
    """What the ranks' first passes answered, [B, T], with the rows in the order of `BATCHES`."""
    rollout, _ = batch_of(case, vocabulary=300)
    parts = [outcome.evaluated for outcome in outcomes]
    whole = scatter_rows(parts, balance(rollout.lengths(), case.ranks), rollout.tokens.shape[1])  # type: ignore[arg-type]
    return whole[torch.tensor(order_of(case)).argsort()]
