"""The first thing to change when a training job does not fit: what costs least and is enough."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from rlhf.config import merge, validate
from rlhf.errors import ConfigError
from rlhf.plan.hardware import Cluster
from rlhf.plan.plans import plan_training
from rlhf.plan.remedies import WITH_GPUS, more_memory
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.variants import Change, in_words
from rlhf.training.config import TrainingConfig, WorkersConfig

MAX_WORKERS = 1024


def training_remedy(stage: TrainStage, cluster: Cluster) -> str:
    """One change that is enough; else changes that are enough together; else more GPUs of the kind."""
    workers = stage.training.workers
    if workers.gpus and not cluster.gpus:
        return WITH_GPUS
    few = list(_no_more_than_there_are(stage, cluster))
    enough = _resident(stage, few, cluster) or _enough(stage, few, cluster)
    if enough is None and workers.gpus:
        return _more_memory(stage, few, cluster) or _more(stage, cluster)
    if enough is None:
        return _fewer(stage, cluster)
    as_it_is = _cluster_for(workers, cluster)
    if few and _fits(stage, as_it_is):
        return f"{in_words(enough)}; as it is the job fits {as_it_is}"
    return in_words(enough)


def with_changes(stage: TrainStage, changes: Sequence[Change]) -> TrainStage | None:
    """The stage with other settings; None where they are then no valid ones."""
    settings = stage.training.model_dump(mode="json")
    for change in changes:
        settings = merge(settings, change.overlay)
    try:
        return replace(stage, training=validate(TrainingConfig, settings))
    except ConfigError:
        return None


def worker_counts(stage: TrainStage, most: int) -> Iterator[Change]:
    """Numbers of workers that divide the batch as it is, the largest first."""
    training = stage.training
    for count in range(most, 0, -1):
        if training.batch_size % (training.micro_batch_size * count) == 0:
            yield Change(f"training.workers.count: {count}", {"workers": {"count": count}})


def _no_more_than_there_are(stage: TrainStage, cluster: Cluster) -> Iterator[Change]:
    """Where the workers ask for more GPUs than there are, the most workers that have one each."""
    workers = stage.training.workers
    if workers.count * workers.gpus > cluster.gpus:
        yield from list(worker_counts(stage, cluster.gpus))[:1]


def _resident(stage: TrainStage, few: Sequence[Change], cluster: Cluster) -> list[Change] | None:
    """States back on the GPUs, where nodes have no room for them, with as few savings as are enough."""
    if not plan_training(stage, cluster).fit.overfills_a_node:
        return None
    back = list(_back(stage.training))
    found = (_enough(stage, [*few, *back[: count + 1]], cluster) for count in range(len(back)))
    return next((each for each in found if each is not None), None)


def _back(training: TrainingConfig) -> Iterator[Change]:
    """Weights come first: they are less."""
    for key in ("offload_parameters", "offload_optimizer"):
        if getattr(training.deepspeed, key):
            yield Change(f"training.deepspeed.{key}: false", {"deepspeed": {key: False}})


def _more_memory(stage: TrainStage, few: Sequence[Change], cluster: Cluster) -> str | None:
    """How much memory nodes need, where nothing else is wrong."""
    there = with_changes(stage, few)
    wanted = plan_training(there, replace(cluster, node_memory=None)).fit if there is not None else None
    if wanted is None or not wanted.fits or not wanted.offloaded:
        return None
    return in_words([*few, Change(more_memory(wanted), {})])


def _enough(stage: TrainStage, taken: Sequence[Change], cluster: Cluster) -> list[Change] | None:
    """What is taken anyway, with as few savings as are enough; None where all of them are not."""
    there = with_changes(stage, taken)
    settled = {_key(each) for each in taken}
    saved = [each for each in _savings(there.training) if _key(each) not in settled] if there is not None else []
    tries = [[], *([each] for each in saved), *(saved[:count] for count in range(2, len(saved) + 1))]
    for savings in tries:
        if _fits(with_changes(stage, [*taken, *savings]), cluster):
            return [*taken, *_without_needless(stage, taken, savings, cluster)]
    return None


def _key(change: Change) -> str:
    return change.words.partition(":")[0]


def _without_needless(
    stage: TrainStage, taken: Sequence[Change], savings: Sequence[Change], cluster: Cluster
) -> list[Change]:
    """The savings without which it does not fit."""
    needed = list(savings)
    for each in savings:
        rest = [other for other in needed if other is not each]
        if _fits(with_changes(stage, [*taken, *rest]), cluster):
            needed = rest
    return needed


def _savings(training: TrainingConfig) -> Iterator[Change]:
    if training.precision == "float32":
        yield Change("training.precision: bfloat16", {"precision": "bfloat16"})
    if not training.gradient_checkpointing:
        yield Change("training.gradient_checkpointing: true", {"gradient_checkpointing": True})
    if training.deepspeed.zero_stage < 3 and training.workers.count > 1:
        yield Change("training.deepspeed.zero_stage: 3", {"deepspeed": {"zero_stage": 3}})
    if training.micro_batch_size > 1:
        yield Change("training.micro_batch_size: 1", {"micro_batch_size": 1})
    if training.workers.gpus and training.deepspeed.zero_stage and not training.deepspeed.offload_optimizer:
        yield Change("training.deepspeed.offload_optimizer: true", {"deepspeed": {"offload_optimizer": True}})


def _more(stage: TrainStage, cluster: Cluster) -> str:
    """The least number of workers, the job's own first and then by doubling, that hold it with every saving."""
    workers = stage.training.workers
    if _fits(stage, larger := _cluster_for(workers, cluster)):
        return f"the cluster: {larger} would do, with this config as it is"
    while workers.count <= MAX_WORKERS:
        larger, wide = _cluster_for(workers, cluster), list(_wide(stage, workers.count))
        savings = _enough(stage, wide, larger)
        if savings is not None:
            return f"the cluster: {larger} would do, {in_words(savings)}"
        workers = workers.model_copy(update={"count": 2 * workers.count})
    return "the kind of GPU, or a smaller model"


def _wide(stage: TrainStage, count: int) -> Iterator[Change]:
    """ZeRO-3 over so many workers, and a batch that they can share, one example at a time where that is enough."""
    training = stage.training
    if count != training.workers.count:
        yield Change(f"training.workers.count: {count}", {"workers": {"count": count}})
    if training.deepspeed.zero_stage < 3:
        yield Change("training.deepspeed.zero_stage: 3", {"deepspeed": {"zero_stage": 3}})
    if training.batch_size % (training.micro_batch_size * count) == 0:
        return
    if training.micro_batch_size > 1:
        yield Change("training.micro_batch_size: 1", {"micro_batch_size": 1})
    batch = -(-training.batch_size // count) * count
    if batch != training.batch_size:
        yield Change(f"training.batch_size: {batch}", {"batch_size": batch})


def _cluster_for(workers: WorkersConfig, cluster: Cluster) -> Cluster:
    """With nodes enough for a GPU of each worker, and no fewer than there are."""
    return replace(cluster, nodes=max(cluster.nodes, -(-workers.count // max(1, cluster.gpus_per_node))))


def _fewer(stage: TrainStage, cluster: Cluster) -> str:
    """On CPUs every worker has weights of its own: the most workers that fit, with as few savings as are enough."""
    for count in worker_counts(stage, stage.training.workers.count - 1):
        enough = _enough(stage, [count], cluster)
        if enough is not None:
            return in_words(enough)
    return "a smaller model, or nodes with more memory"


def _fits(stage: TrainStage | None, cluster: Cluster) -> bool:
    return stage is not None and plan_training(stage, cluster).fit.fits
