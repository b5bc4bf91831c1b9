"""Sensible ways to run a training job on a cluster, the fastest of those that fit first."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from rlhf.plan.hardware import Cluster
from rlhf.plan.layouts import Layout
from rlhf.plan.plans import plan_training
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.training_remedies import with_changes, worker_counts
from rlhf.plan.variants import Change


def training_layouts(stage: TrainStage, cluster: Cluster) -> Iterator[Layout]:
    """Those that fit, the fastest first; of two that are equally fast the one with more room."""
    found = []
    for change in _candidates(stage, cluster):
        there = with_changes(stage, [change])
        plan = plan_training(there, cluster) if there is not None else None
        if plan is not None and plan.fit.fits:
            found.append(Layout(change, plan))
    yield from sorted(found, key=lambda each: (round(each.seconds, 1), each.plan.fit.fullest))


def _candidates(stage: TrainStage, cluster: Cluster) -> Iterator[Change]:
    """As many workers as there are GPUs, or as divide the batch, and every way of theirs to save memory."""
    for most in list(worker_counts(stage, cluster.gpus))[:1]:
        for zero, offload, recomputes in product((1, 2, 3), (False, True), (False, True)):
            host = ", optimizer on the host" if offload else ""
            words = f"{most.words.rpartition(' ')[2]} workers; ZeRO-{zero}{host}{', recomputing' if recomputes else ''}"
            deepspeed = {"zero_stage": zero, "offload_optimizer": offload, "offload_parameters": False}
            settings = {"gradient_checkpointing": recomputes, "deepspeed": deepspeed}
            workers = {**most.overlay["workers"], "gpus": 1}
            yield Change(words, {**settings, "workers": workers})
