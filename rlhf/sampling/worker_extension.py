"""What vLLM's worker learns besides its own methods; vLLM mixes this class into the worker by name.

Calls go by method name, so no function is ever pickled into an engine.
"""

from __future__ import annotations

from typing import Any


class WeightReceiver:
    """Takes a full set of named weights that lives in this process."""

    reload_weights: Any  # of vLLM's worker

    def receive_weights(self, weights: list[tuple[str, Any]]) -> None:
        """Replace the model's weights. `weights`: (transformers name, tensor), every parameter present.

        `load_weights` of the running model fails on CPU builds; `reload_weights` re-attaches the loaders first and
        works on every device.
        """
        self.reload_weights(weights_iterator=iter(weights))
