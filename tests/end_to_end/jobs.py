"""Small PPO jobs on real engines, and what they wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.batch import PromptBatch, Rollout, concatenate
from rlhf.config import merge, validate
from rlhf.context import RunContext
from rlhf.errors import NumericError, StalePolicyError
from rlhf.interfaces import Collected
from rlhf.metrics import read_json_lines
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import Roles, train
from rlhf.progress import LineProgress


def settings(models: Any, output: Path, tied: bool = True, **changes: Any) -> dict[str, Any]:
    """Two policy ranks under ZeRO-2 and two engines; a learning rate that moves the weights visibly in a step."""
    policy, share = str(models.tied if tied else models.untied), {"cpus": 0.25}
    learner = {"optimizer": {"learning_rate": 0.01, "warmup_fraction": 0.0}, "resources": share}
    base = {
        "output": str(output), "prompts": str(models.prompts), "steps": 3, "seed": 3,
        "policy": merge(learner, {"model": policy, "zero": {"stage": 2}, "resources": {"ranks": 2}}),
        "critic": merge(learner, {"model": str(models.reward)}),
        "reference": {"model": policy, "resources": share}, "reward": {"model": str(models.reward), "resources": share},
        "rollout": {
            "prompts_per_step": 14, "max_new_tokens": 16, "max_model_len": 128, "max_sequences": 16,
            "resources": {"ranks": 2, "cpus": 0.25, "threads": 1},
        },
        "transcripts_every": 1, "checkpoint_every": 2,
    }
    return merge(base, changes)


def config_of(models: Any, output: Path, **changes: Any) -> PPOConfig:
    return validate(PPOConfig, settings(models, output, **changes))


def small(**changes: Any) -> dict[str, Any]:
    """Changes for a job that starts fast: one rank of the policy, no critic, one engine."""
    one = {"resources": {"ranks": 1}}
    base = {"policy": one, "rollout": one, "critic": None, "ppo": {"advantage": {"kind": "reinforce_pp"}}}
    return merge(base, changes)


def context_of(output: Path) -> RunContext:
    return RunContext("ppo", output, "config", {}, LineProgress())


def metrics_of(output: Path) -> list[dict[str, float]]:
    """Rows of a run that is under way or finished."""
    return read_json_lines(work_of(output) / "metrics.jsonl")


def work_of(output: Path) -> Path:
    """Where a run keeps what must survive a kill."""
    return context_of(output).work


def without_time(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    """What has to be equal between two runs of one config."""
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows]


def transcript_of(directory: Path, step: int) -> Any:
    import pandas

    return pandas.read_parquet(directory / "transcripts" / f"step_{step:06d}.parquet")


def rollout_of(directory: Path, step: int) -> Any:
    """Token by token, where `rollout.save` is set."""
    import pandas

    return pandas.read_parquet(directory / "rollouts" / f"step_{step:06d}.parquet")


@dataclass
class Probed:
    """What the actors of a finished run answered before they were stopped."""

    output: Path
    rollouts: list[Rollout]
    stale_error: str
    gap_error: str
    gap_of_stale_weights: float
    gap_after_sync: float


def probe(config: PPOConfig) -> Probed:
    """Run all steps of a job, as `actors.ppo_job.run` does, then ask its actors for more."""
    from actors.assembly import roles_of
    from actors.ppo_job import checkpoints_of
    from actors.preparation import prepare
    from rlhf.ppo.recorder import RunRecorder

    context, plan = context_of(config.output), prepare(config)
    recorder = RunRecorder(context.work, config.steps, context.progress)
    with roles_of(config, plan, context.work) as roles:
        train(config, roles, checkpoints_of(config, context), recorder)
        recorder.close()
        batch = plan.prompts.batch(config.steps)
        live = Live(roles, batch, config.steps, plan.pad_token)
        rollouts = live.rollouts()
        return Probed(config.output, rollouts, live.stale_error(), *live.disagreement(config.policy.model))


@dataclass
class Live:
    """Roles that hold policy version `version`, and prompts with their seeds."""

    roles: Roles
    asked: PromptBatch
    version: int
    pad_token: int

    @property
    def collector(self) -> Any:
        """Of rollouts; they may be saved on their way."""
        collector: Any = self.roles.collector
        return getattr(collector, "collector", collector)

    @property
    def sampler(self) -> Any:
        return self.collector.sampler

    def rollouts(self) -> list[Rollout]:
        """The same prompts under the same seeds, on one engine and on two, in batches of several sizes."""
        first, second = self.sampler.pool.actors
        count = len(self.asked)
        ways = (([first], count), ([first], 1), ([second], count), ([first, second], count // 2), ([second, first], 3))
        return [self._sample(engines, batch) for engines, batch in ways]

    def _sample(self, engines: list, batch: int) -> Rollout:
        import ray

        shards = []
        for k, start in enumerate(range(0, len(self.asked), batch)):
            part = slice(start, start + batch)
            token_ids = [prompt.token_ids for prompt in self.asked.prompts[part]]
            call = engines[k % len(engines)].generate.options(num_returns=2)
            shards.append(call.remote(token_ids, self.sampler.sampling, self.asked.seeds[part], self.version)[0])
        return concatenate(ray.get(shards), self.pad_token)

    def stale_error(self) -> str:
        """What is said when engines that missed a version are asked for it."""
        try:
            self.sampler.generate(self.asked, self.version + 1).get()
        except StalePolicyError as error:
            return str(error)
        return ""

    def disagreement(self, other: str) -> tuple[str, float, float]:
        """With the weights of `other` under the next version's name: error and gap; then the gap after a sync."""
        stale = self.version + 1
        self.sampler.pool.call_all("load_directory", other, stale).get()
        try:
            said = str(self._gap(stale))
        except NumericError as error:
            said = str(error)
        self.roles.weights.publish(stale + 1).get()
        return said, float(said.partition("disagree by ")[2].partition(" nats")[0] or 0.0), self._gap(stale + 1)

    def _gap(self, version: int) -> float:
        """The largest difference between engines and learner on a new rollout, nats; a step's own way to find it."""
        roles, rollout = self.roles, self.sampler.generate(self.asked, version)
        collected = Collected(rollout, self.collector.reward.score(rollout), 0, {})
        tensors = (roles.policy.logprobs(rollout), roles.reference.logprobs(rollout), roles.critic.values(rollout))
        return roles.experience.build(version, 0.05, collected, *tensors).get()["sync/logprob_gap_max"].value
