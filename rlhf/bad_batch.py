"""A batch with something that is not finite, kept for `rlhf replay`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def save_bad_batch(
    path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None, named: Path | None = None
) -> str:
    """What has become of it, in words, of which the file is called `named`. That it could not be written, to a full
    disk say, must not hide why it was to be."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        on_cpu = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(on_cpu, str(path), dict(about) if about else None)
    except (OSError, SafetensorError) as error:
        return f"could not be saved as {path} ({error})"
    return f"was saved as {named or path}"
