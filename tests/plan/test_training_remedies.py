"""What to change first in a training job: the job as it is on more nodes, and fewer workers, are looked at, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf.config import load, merge, parse_override
from rlhf.plan.hardware import parse_cluster
from rlhf.plan.plans import plan_training
from rlhf.plan.sizes import Sizes
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.training_remedies import training_remedy, with_changes, worker_counts
from rlhf.plan.variants import Change
from rlhf.stages.sft import SftConfig

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def job(name: str, *overrides: str, model: str | None = None) -> TrainStage:
    changes = (f"model={model}",) if model else ()
    return TrainStage.of("sft", load(SftConfig, [CONFIGS / name], [*overrides, *changes]), Sizes())


BIG, SMALL, CPU = "gpu/sft_llama3_70b_16nodes.yaml", "gpu/sft_llama3_8b_8gpu.yaml", "sft.yaml"
OFFLOAD = "training.deepspeed.offload_optimizer: true"


@pytest.mark.parametrize(
    ("stage", "cluster", "remedy"),
    [
        (job(SMALL), "1x4xH100-80", "training.workers.count: 4; as it is the job fits 2 nodes of 4 x H100-80 GiB"),
        (job(SMALL), "1x3xH100-80", "training.workers.count: 2; as it is the job fits 3 nodes of 3 x H100-80 GiB"),
        (
            job(BIG), "2x8xH100-80",
            f"training.workers.count: 16, and {OFFLOAD}; as it is the job fits 16 nodes of 8 x H100-80 GiB",
        ),
        (job(BIG), "1x1xL40S-48", "the cluster: 128 nodes of 1 x L40S-48 GiB would do, with this config as it is"),
        (
            job(BIG), "2x8xL4-24",
            f"the cluster: 64 nodes of 8 x L4-24 GiB would do, training.workers.count: 512, and "
            f"training.batch_size: 512, and {OFFLOAD}",
        ),
        (job(SMALL), "1xCPU-64", "the cluster: name one with GPUs, --cluster 1x8xH100-80"),
        (
            job(CPU, model="Qwen2.5-0.5B"), "1xCPU-14",
            "training.workers.count: 1, and training.precision: bfloat16, and training.micro_batch_size: 1",
        ),
        (job(CPU, model="Llama-3-70B"), "1xCPU-64", "a smaller model, or nodes with more memory"),
    ],
)
def test_the_first_thing_to_change(stage: TrainStage, cluster: str, remedy: str) -> None:
    assert training_remedy(stage, parse_cluster(cluster)) == remedy


@pytest.mark.parametrize("name", [SMALL, BIG, CPU])
@pytest.mark.parametrize("cluster", ["1x1xH100-80", "1x4xL4-24", "2x8xA100-40", "1x3xL40S-48", "1xCPU-40"])
def test_what_is_named_is_enough(name: str, cluster: str) -> None:
    """Of the sentence's own settings, and on the cluster that it names."""
    stage, there = job(name, model=None if "gpu" in name else "Qwen2.5-0.5B"), parse_cluster(cluster)
    sentence = training_remedy(stage, there).partition(";")[0]
    overlay: dict = {}
    for words in sentence.replace(" would do, ", ", and ").split(", and "):
        if words.startswith("training."):
            overlay = merge(overlay, parse_override(words.removeprefix("training.").replace(": ", "=")))
        if words.startswith("the cluster: ") and "name one" not in words:
            nodes, gpus = words.removeprefix("the cluster: ").split(" of ")
            there = parse_cluster(f"{nodes.split()[0]}x{gpus.replace(' x ', 'x').split()[0]}")
    changed = with_changes(stage, [Change(sentence, overlay)])
    assert changed is not None
    assert plan_training(changed, there).fit.fits or "name one with GPUs" in sentence


def test_workers_share_the_batch_as_it_is() -> None:
    """64 examples, 2 at a time: of up to eight workers these divide it."""
    assert [change.words for change in worker_counts(job(SMALL), 8)] == [
        f"training.workers.count: {count}" for count in (8, 4, 2, 1)
    ]
