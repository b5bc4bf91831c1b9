"""Seconds of one role's work on its own GPUs."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.plan import limit
from rlhf.plan.architecture import Architecture
from rlhf.plan.assumptions import Assumptions
from rlhf.plan.demands import Demand
from rlhf.plan.frozen import Engine, Frozen
from rlhf.plan.hardware import Cluster, Gpu
from rlhf.plan.limit import Costs, Work
from rlhf.plan.trained import Trained

STEP_BYTES = 30  # of a trained parameter: masters, moments and gradient are read, masters, moments and weight written
OFFLOADED_BYTES = 6  # that cross PCIe: a float32 gradient one way, a bfloat16 weight the other


def costs(model: Architecture, width: int) -> Costs:
    """What a token of a model costs."""
    return Costs(
        model.matmul_parameters, width * model.parameters, model.kv_bytes(width), model.attention_flops(1.0)
    )


@dataclass(frozen=True)
class RoleTimes:
    """Of the rows of one step. A `gpu` that is passed in may be the real one or one slowed down to what is attainable;
    links and the host are always taken as attainable, because nothing overlaps them perfectly."""

    cluster: Cluster
    assumed: Assumptions
    rows: Work

    def scoring(self, demand: Demand, gpu: Gpu) -> float:
        """A forward pass over the rows; ZeRO-3 gathers weights meanwhile."""
        model = demand.model
        assert not isinstance(model, Engine)
        computed = limit.score(costs(model.model, model.width), self.rows, gpu, demand.resources.ranks)
        return max(computed, self.gathering(demand, 1))

    def training(self, demand: Demand, gpu: Gpu, optimizer_steps: int) -> float:
        """Forward and backward over the rows once, in so many optimizer steps."""
        model = demand.model
        assert isinstance(model, Trained)
        frozen = model.trained < model.model.parameters / 10
        passes = limit.train(
            costs(model.model, model.width), self.rows, gpu, demand.resources.ranks, model.checkpointing, frozen
        )
        busy = max(passes, self.gathering(demand, 3 if model.checkpointing else 2))
        return busy + optimizer_steps * self.stepping(demand, gpu)

    def gathering(self, demand: Demand, passes: int) -> float:
        """ZeRO-3 gathers every weight in every pass of every micro-batch; stage 2 and 3 spread its gradients."""
        model = demand.model
        assert not isinstance(model, Engine)
        if demand.resources.ranks == 1 or (isinstance(model, Frozen) and model.ranks == 1):
            return 0.0
        micro_batches = max(1.0, self.rows.tokens / demand.resources.ranks / model.tokens)
        if isinstance(model, Frozen):
            return micro_batches * limit.transfer(passes * model.width * model.model.parameters, self.links(demand))
        gathers = passes if model.zero.stage == 3 else 0
        spreads = 1 if passes > 1 and model.zero.stage >= 2 else 0
        moved = model.width * (gathers * model.model.parameters + spreads * model.trained)
        return micro_batches * limit.transfer(moved, self.links(demand))

    def stepping(self, demand: Demand, gpu: Gpu) -> float:
        """One optimizer step: states are read and written once; without ZeRO-3 new weights go to all ranks."""
        model = demand.model
        assert isinstance(model, Trained)
        ranks = demand.resources.ranks
        share = model.trained / (ranks if model.zero.stage else 1)
        if model.zero.offload_optimizer:
            update = STEP_BYTES * share / self.assumed.host_memory + OFFLOADED_BYTES * share / gpu.pcie
        else:
            update = STEP_BYTES * share / gpu.bandwidth
        whole = model.zero.stage in (1, 2) and ranks > 1
        return update + (model.width * model.trained / self.links(demand) if whole else 0.0)

    def links(self, demand: Demand) -> float:
        """Bytes/s at which every rank of a role receives what all of them hold: over NVLink within a node, else what
        the adapters of a whole node carry together."""
        gpu = self.cluster.gpu
        assert gpu is not None
        if demand.resources.ranks <= self.cluster.gpus_per_node:
            return self.assumed.links * (gpu.nvlink or gpu.pcie)
        return self.assumed.links * gpu.network * self.cluster.gpus_per_node
