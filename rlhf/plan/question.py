"""How much memory does full fine-tuning of 7B need: a model, a method, and the GPUs that hold it."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rlhf.config import suggestion
from rlhf.errors import ConfigError
from rlhf.plan.architecture import Architecture
from rlhf.plan.demands import trained
from rlhf.plan.hardware import GIB, GPUS, Cluster, Gpu
from rlhf.plan.memory import ON_GPU, Memory
from rlhf.plan.places import USABLE
from rlhf.plan.states import Zero
from rlhf.plan.trained import Output, Trained
from rlhf.ppo.config import LoraConfig

METHODS = ("full", "lora")
TOKENS = 4096  # of the micro-batch that the answer assumes
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def training(model: Architecture, method: str, ranks: int = 1, offload: bool = False) -> Trained:
    """SFT in bfloat16 with float32 masters, ZeRO-3, recomputed activations and one row at a time."""
    if method not in METHODS:
        raise ConfigError(f"--method: '{method}'{suggestion(method, METHODS)}")
    count = trained(model, LoraConfig() if method == "lora" else None, 0)
    zero = Zero(3, ranks, offload_optimizer=offload)
    return Trained(model, zero, 2, count, TOKENS, Output.FUSED, checkpointing=True, accumulated=2)


def smallest(model: Architecture, method: str, gpu: Gpu) -> tuple[int, Memory] | None:
    """The least number of GPUs of a kind that hold it, and what each holds."""
    for ranks in COUNTS:
        memory = training(model, method, ranks).memory(ON_GPU)
        if memory.peak <= gpu.memory * USABLE:
            return ranks, memory
    return None


def question(model: Architecture, method: str, cluster: Cluster | None, as_json: bool) -> str:
    """The answer as text or JSON, for the GPUs of a cluster or for every kind. Raises ConfigError for one without."""
    if cluster is not None and cluster.gpu is None:
        raise ConfigError("--cluster: without a config only GPUs are reckoned with; name a cluster that has some")
    if as_json:
        return json.dumps(_plain(model, method, cluster), indent=2)
    return "\n".join(_lines(model, method, cluster))


def _kinds(cluster: Cluster | None) -> dict[str, Gpu]:
    return GPUS if cluster is None or cluster.gpu is None else {cluster.gpu.kind: cluster.gpu}


def _plain(model: Architecture, method: str, cluster: Cluster | None) -> dict:
    memory = training(model, method).memory(ON_GPU)
    found = {kind: smallest(model, method, gpu) for kind, gpu in _kinds(cluster).items()}
    return {
        "model": model.name, "parameters": model.parameters, "method": method, "states": memory.certain,
        "peak": memory.peak, "gpus": {kind: each[0] for kind, each in found.items() if each},
    }


def _lines(model: Architecture, method: str, cluster: Cluster | None) -> Iterator[str]:
    alone = training(model, method)
    memory = alone.memory(ON_GPU)
    what = "Full fine-tuning" if method == "full" else "LoRA (rank 16, every linear layer)"
    yield (
        f"{what} of {model.name} ({model.parameters / 1e9:.2f} billion parameters, {alone.trained / 1e6:,.0f} million "
        f"trained) needs {memory.certain / GIB:.0f} GiB for weights, gradients and optimizer, and "
        f"{memory.peak / GIB:.0f} GiB in all on one GPU."
    )
    if cluster is not None and cluster.gpu is not None:
        yield f"{cluster}: {_whether(smallest(model, method, cluster.gpu), cluster)}."
    yield ""
    for name, number in _rows(memory).items():
        yield f"  {name:50}{number / GIB:8.1f} GiB"
    yield ""
    yield f"  {'GPU':14}{'least, ZeRO-3':>16}{'GiB of each':>14}{'one, optimizer on the host':>30}"
    for kind, gpu in _kinds(cluster).items():
        yield _row(model, method, kind, gpu)


def _whether(least: tuple[int, Memory] | None, cluster: Cluster) -> str:
    if least is None:
        return f"does not fit, nor on {COUNTS[-1]} such GPUs"
    if least[0] > cluster.gpus:
        return f"does not fit; {least[0]} such GPUs would hold it, and there are {cluster.gpus}"
    return f"fits; {least[0]} of its {cluster.gpus} GPUs are enough"


def _rows(memory: Memory) -> dict[str, float]:
    return {
        "weights, bfloat16": memory.weights, "gradients": memory.gradients,
        "float32 masters and Adam's moments": memory.optimizer,
        f"activations of {TOKENS} tokens, recomputed": memory.activations,
        "gathered for the moment": memory.gathered, "DeepSpeed's buffers": memory.buffers,
        "CUDA and NCCL": memory.runtime,
    }


def _row(model: Architecture, method: str, kind: str, gpu: Gpu) -> str:
    found = smallest(model, method, gpu)
    least = f"{found[0]:>16}{found[1].peak / GIB:>14.1f}" if found else f"{'-':>16}{'-':>14}"
    host = training(model, method, offload=True).memory(ON_GPU)
    one = f"{host.peak / GIB:.1f} + {host.host / GIB:.0f} GiB of host"
    return f"  {kind:14}{least}{one if host.peak <= gpu.memory * USABLE else 'too little':>30}"
