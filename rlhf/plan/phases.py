"""How long a step takes, by phase: roles that share a GPU take turns, roles on GPUs of their own work side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rlhf.plan import limit
from rlhf.plan.assumptions import USUAL, Assumptions
from rlhf.plan.demands import Demand, Lengths
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import Cluster, Gpu
from rlhf.plan.limit import Work
from rlhf.plan.places import Device
from rlhf.plan.role_times import RoleTimes, costs
from rlhf.plan.trained import Trained
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop_config import Asynchronous


@dataclass(frozen=True)
class Phase:
    """Seconds of a phase: at the limit, with attainable kernels, and as published systems do."""

    name: str
    limit: float
    attainable: float
    expected: float
    note: str = ""


@dataclass(frozen=True)
class Iteration:
    """The phases of one step, and what joins them."""

    phases: tuple[Phase, ...]
    overlapped: bool = False  # rollouts run while the step before trains

    def total(self, kind: str) -> float:
        """Seconds; `kind` is limit, attainable or expected."""
        seconds = {phase.name: getattr(phase, kind) for phase in self.phases}
        if not self.overlapped:
            return sum(seconds.values())
        rest = sum(value for name, value in seconds.items() if name != "rollout")
        return max(seconds.get("rollout", 0.0), rest)


def slowed(gpu: Gpu, assumed: Assumptions) -> Gpu:
    """A GPU as fast as good kernels drive it."""
    return replace(gpu, flops=gpu.flops * assumed.flops, bandwidth=gpu.bandwidth * assumed.bandwidth)


def phase(name: str, gpu: Gpu, assumed: Assumptions, seconds: Callable[[Gpu], float], note: str = "") -> Phase:
    """A phase from its time as a function of the GPU."""
    attainable = seconds(slowed(gpu, assumed))
    return Phase(name, seconds(gpu), attainable, attainable / assumed.systems, note)


@dataclass(frozen=True)
class Predictor:
    """A PPO config on devices of a cluster. `lengths`: mean tokens of prompt and response; `longest`: of a response."""

    config: PPOConfig
    demands: Sequence[Demand]
    devices: Sequence[Device]
    cluster: Cluster
    lengths: Lengths
    longest: int
    assumed: Assumptions = USUAL

    def iteration(self) -> Iteration:
        """Every phase of a step."""
        parts = [self._rollout(), self._score(), self._update(), self._publish(), self._checkpoint()]
        there = tuple(part for part in parts if part is not None and part.expected)
        return Iteration(there, isinstance(self.config.loop, Asynchronous))

    @property
    def _work(self) -> Work:
        rows = self.config.responses_per_step
        return Work(rows, self.lengths.prompt, self.lengths.response, self.longest)

    @property
    def _times(self) -> RoleTimes:
        return RoleTimes(self.cluster, self.assumed, self._work)

    @property
    def _gpu(self) -> Gpu:
        assert self.cluster.gpu is not None
        return self.cluster.gpu

    def _of(self, role: str) -> Demand | None:
        return next((each for each in self.demands if each.role == role), None)

    def _rollout(self) -> Phase | None:
        demand = self._of("rollout")
        if demand is None or not isinstance(demand.model, Engine):
            return None
        engine, model = demand.model, costs(demand.model.model, demand.model.width)
        gpus = demand.resources.ranks * engine.tensor_parallel
        greedy = self.config.rollout.prompts_per_step if self.config.ppo.advantage.greedy else 0
        work = replace(self._work, sequences=self._work.sequences + greedy)
        at_once, batch = self._at_once(demand), work.sequences / demand.resources.ranks

        def seconds(gpu: Gpu) -> float:
            sampling = limit.decode(model, work, gpu, gpus, engine.tensor_parallel, at_once)
            return sampling + limit.prefill(model, work, gpu, gpus)

        note = f"{batch:.0f} sequences an engine, {min(batch, at_once):.0f} at once"
        return phase("rollout", self._gpu, self.assumed, seconds, note)

    def _at_once(self, demand: Demand) -> float:
        """Sequences that an engine runs at once: what its limit and its KV cache allow."""
        assert isinstance(demand.model, Engine)
        mean = self.lengths.prompt + self.lengths.response / 2
        cached = demand.model.cached_tokens(demand.on(self._gpu)) / mean
        return max(1.0, min(float(demand.model.sequences), cached))

    def _score(self) -> Phase:
        """Frozen models and, where graphs are not kept for the update, the learners."""
        def seconds(demand: Demand, gpu: Gpu) -> float:
            model = demand.model
            if isinstance(model, Engine) or (isinstance(model, Trained) and self._retains(model)):
                return 0.0
            return self._times.scoring(demand, gpu)

        return phase("score", self._gpu, self.assumed, lambda gpu: self._slowest(seconds, gpu))

    def _retains(self, model: Trained) -> bool:
        """Whether one pass serves scoring and update: a rank's whole share is in memory at once."""
        one_step = self.config.ppo.epochs * self.config.ppo.minibatches == 1
        return one_step and model.tokens * model.zero.ranks >= self._work.tokens

    def _update(self) -> Phase:
        def seconds(demand: Demand, gpu: Gpu) -> float:
            if not isinstance(demand.model, Trained):
                return 0.0
            return self.config.ppo.epochs * self._times.training(demand, gpu, self.config.ppo.minibatches)

        return phase("update", self._gpu, self.assumed, lambda gpu: self._slowest(seconds, gpu))

    def _slowest(self, seconds: Callable[[Demand, Gpu], float], gpu: Gpu) -> float:
        return max(sum(seconds(held.demand, gpu) for held in device.holdings) for device in self.devices)

    def _publish(self) -> Phase | None:
        """New weights to the engines; policy ranks gather them first where ZeRO-3 has divided them."""
        policy, rollout = self._of("policy"), self._of("rollout")
        if policy is None or rollout is None or not isinstance(policy.model, Trained):
            return None
        gpu, size = self._gpu, policy.model.width * policy.model.model.parameters
        near = gpu.nvlink or gpu.pcie
        divided = policy.model.zero.stage == 3 and policy.resources.ranks > 1
        ways = {
            "nccl": size / (self.assumed.links * (gpu.network if self.cluster.nodes > 1 else near)),
            "cuda_ipc": 2 * size / (self.assumed.bandwidth * gpu.bandwidth),
            "object_store": size / self.assumed.host_path,
        }
        kind = self.config.rollout.weight_sync.kind
        gathered = size / self._times.links(policy) if divided else 0.0
        total = gathered + ways[kind] + self._away() + (self.assumed.wake_s if self.config.rollout.sleep else 0.0)
        return Phase("publish", size / min(near, gpu.network * self.cluster.gpus_per_node), total, total, kind)

    def _away(self) -> float:
        """Learners that leave their GPUs while engines sample, and come back."""
        moved = [each.on(self._gpu).moved for each in self.demands if isinstance(each.model, Trained)]
        return 2 * sum(moved) / self._gpu.pcie

    def _checkpoint(self) -> Phase | None:
        learners = [each.model for each in self.demands if isinstance(each.model, Trained)]
        size = sum(model.width * model.model.parameters + 12 * model.trained for model in learners)
        seconds, every = size / self.assumed.storage / self.config.checkpoint_every, self.config.checkpoint_every
        note = f"{size / 1e9:.0f} GB every {every} steps"
        return Phase("checkpoint", 0.0, seconds, seconds, note) if learners else None
