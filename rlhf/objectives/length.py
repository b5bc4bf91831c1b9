"""What length does to a response: penalties on its score, and leaving the loss when it was cut."""

from __future__ import annotations

from torch import Tensor


def soft_overlong_penalty(lengths: Tensor, max_length: int, buffer: int) -> Tensor:
    """0 up to max_length − buffer tokens, then falling in a straight line to −1 at max_length, and −1 beyond.

    Source: DAPO, arXiv:2503.14476, equation 13. Args: lengths [B] int64; tokens. Returns [B] float32, to be added
    to the scores. Raises ValueError unless 0 < buffer ≤ max_length.
    """
    if not 0 < buffer <= max_length:
        raise ValueError(f"overlong buffer of {buffer} tokens: choose 1 to {max_length}, the length limit")
    return ((max_length - buffer - lengths.float()) / buffer).clamp(-1.0, 0.0)


def linear_length_penalty(lengths: Tensor, per_token: float, free: int = 0) -> Tensor:
    """−per_token for each token beyond the first `free` ones; lengths [B] int64 → [B] float32."""
    return -per_token * (lengths - free).clamp(min=0).float()


def overlong_filter(mask: Tensor, finished: Tensor) -> Tensor:
    """The response mask without the responses that were cut at the length limit: they leave the loss.

    Source: overlong filtering of DAPO, arXiv:2503.14476, section 3.4. Args: mask [B, T] bool; finished [B] bool,
    as the engine said. Returns [B, T] bool.
    """
    return mask & finished[:, None]
