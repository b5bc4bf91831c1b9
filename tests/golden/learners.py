"""Makes the golden checkpoint, or goes on from it: real DeepSpeed learners of one rank, in a process of their own.

    .venv/bin/python -m tests.golden.learners make DIRECTORY    # after a change of seal.FORMAT, into a new one
    .venv/bin/python -m tests.golden.learners resume DIRECTORY   # prints what came of it, as JSON

`DIRECTORY` holds `model` (what the run began with) and `run.work` (config and one checkpoint, after one update).
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.config import dump, read_yaml, validate
from rlhf.interfaces import Handle, Nothing
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import LoopState, Roles
from rlhf.ppo.rollout_file import read_rollout, write_rollout
from rlhf.sound import SoundDirectory
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.ranks import MeetingPlace, Rank, join_ranks
from tests.ppo import test_rollout_file as rollouts
from tests.training.ranks import Case, batch_of

STATE = LoopState(1, 0.0625, 8)
WAITING = "waiting_000.parquet"  # as rlhf.ppo.ahead calls it
_MEETING: list[MeetingPlace] = []  # has to outlive the process group


@dataclass(frozen=True)
class Done:
    """Work that was done when it was asked for."""

    def get(self) -> None: ...


@dataclass
class Role:
    """A learner where the loop expects a role."""

    learner: Any

    def save(self, directory: Path) -> Handle[None]:
        self.learner.save(directory)
        for script in directory.glob("*.py"):  # DeepSpeed's own, for people; nothing reads them
            script.unlink()
        return Done()

    def load(self, directory: SoundDirectory) -> Handle[None]:
        self.learner.load(directory)
        return Done()


@dataclass
class OneWaiting:
    """A collector with one rollout ahead of its step."""

    read: Any = None

    def save(self, directory: Path) -> Nothing:
        write_rollout(directory / WAITING, rollouts.saved(False), ["x"] * 4)
        return Nothing()

    def load(self, directory: Path) -> None:
        self.read = read_rollout(directory / WAITING, 0, rollouts.PARTS)


def config_of(root: Path) -> PPOConfig:
    model = {"model": str(root / "model")}
    learner = {
        **model, "optimizer": {"learning_rate": 0.05, "epsilon": 0.005, "warmup_fraction": 0.0}, "zero": {"stage": 2},
    }
    return validate(PPOConfig, {
        "output": str(root / "run"), "prompts": "prompts.jsonl", "steps": 10, "policy": learner, "critic": learner,
        "reference": model, "reward": model, "rollout": {"prompts_per_step": 8}, "checkpoint_every": 1,
    })


def make_model(directory: Path) -> None:
    """A language model of 3,000 weights, with its tokenizer."""
    from rlhf.models.loading import NewModelConfig, new_causal_lm
    from rlhf.tokenization.train import train_tokenizer

    tokenizer = train_tokenizer(["some words to learn from"] * 4, 262)
    sizes = NewModelConfig(hidden_size=8, layers=1, heads=2, kv_heads=1, intermediate_size=16, max_positions=128)
    new_causal_lm(sizes, tokenizer, seed=0).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def learners(config: PPOConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Learner and model of each role."""
    from rlhf.training.build import build_learner

    torch.set_num_threads(1)
    _MEETING.append(MeetingPlace("127.0.0.1"))
    join_ranks(Rank(0, 1, _MEETING[0].address, _MEETING[0].port))
    built = {role: build_learner(role, config, Path(config.output)) for role in ("policy", "critic")}
    return {role: pair[0] for role, pair in built.items()}, {role: pair[1] for role, pair in built.items()}


def roles_of(made: dict[str, Any]) -> Roles:
    none: Any = None
    return Roles(OneWaiting(), none, Role(made["policy"]), Role(made["critic"]), none, none)


def update(made: dict[str, Any], models: dict[str, Any], step: int) -> dict[str, float]:
    """One update of each: its losses and gradient norms."""
    _, experience = batch_of(Case(batch="even"), models["policy"].config.vocab_size)
    found: dict[str, float] = {}
    for learner in made.values():
        found.update({name: metric.value for name, metric in learner.update(experience, step, seed=step).items()})
    return {name: value for name, value in found.items() if "loss" in name or "grad_norm" in name}


def sums(models: dict[str, Any]) -> dict[str, float]:
    """A number for every weight of every role: it changes when the weight does."""
    return {
        f"{role}.{name}": float((weight.detach().double() * torch.arange(1, weight.numel() + 1).view_as(weight)).sum())
        for role, model in models.items() for name, weight in model.named_parameters()
    }


def make(root: Path) -> None:
    make_model(root / "model")
    config = config_of(root)
    work = root / "run.work"
    work.mkdir()
    made, models = learners(config)
    numbers = update(made, models, 0)
    kept = DirectoryCheckpoints(work / "checkpoints", Keeping(1))
    kept.save(roles_of(made), STATE, numbers)
    kept.finish()
    saved = sums(models)
    (work / "config.yaml").write_text(dump(config).replace(str(root), "ROOT"))
    expected = {"saved": saved, "metrics": update(made, models, 1), "after": sums(models)}
    (root / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def resume(root: Path) -> dict[str, Any]:
    """From weights that are others on purpose."""
    config = validate(PPOConfig, read_yaml(root / "run.work" / "config.yaml"))
    made, models = learners(config.model_copy(update={"seed": 1}))  # the critic's head is drawn by it
    roles = roles_of(made)
    before = sums(models)
    state = DirectoryCheckpoints(root / "run.work" / "checkpoints", Keeping(1)).restore(roles)
    assert state == STATE and before != sums(models)
    wanted = rollouts.saved(False)
    assert roles.collector.read.asked == wanted.asked
    rollouts.require_same(roles.collector.read.sampled, wanted.sampled)
    return {"saved": sums(models), "metrics": update(made, models, 1), "after": sums(models)}


def main() -> None:
    what, root = sys.argv[1], Path(sys.argv[2]).absolute()
    with contextlib.redirect_stdout(sys.stderr):
        found = make(root) if what == "make" else resume(root)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
