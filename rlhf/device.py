"""The one place that asks which accelerator exists, which dtype, and which collective backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["float32", "bfloat16"]


def has_gpu() -> bool:
    """Whether this process sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def current() -> torch.device:
    """The device of this process: its first visible GPU, else the CPU."""
    import torch

    return torch.device("cuda", torch.cuda.current_device()) if has_gpu() else torch.device("cpu")


def collective_backend() -> str:
    """`nccl` between GPUs, `gloo` between CPUs."""
    return "nccl" if has_gpu() else "gloo"


def synchronize() -> None:
    """Wait for the work that this process has given to its GPU; nothing to wait for on a CPU."""
    import torch

    if has_gpu():
        torch.cuda.synchronize()


def release_unused_memory() -> None:
    """Give the GPU back what this process's allocator keeps but nothing uses; nothing to give back on a CPU."""
    import gc

    import torch

    if has_gpu():
        gc.collect()
        torch.cuda.empty_cache()


def dtype(precision: Precision) -> torch.dtype:
    """The torch dtype of a config's `precision`."""
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]
