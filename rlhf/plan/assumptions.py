"""What a predicted time rests on besides the limit; every plan prints these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Assumptions:
    """Shares of the limit that good kernels reach, and what whole systems reach of that.

    45% of FLOP/s (torchtitan 33 to 39%, Llama 3 38 to 43% MFU in pretraining, more in forward passes) and 75% of
    memory bandwidth are called attainable; the best documented systems take 1 / 0.47 of the attainable time for a
    whole iteration. docs/planning.md has the sources and the comparison.
    """

    flops: float = 0.45
    bandwidth: float = 0.75
    links: float = 0.75
    systems: float = 0.47
    host_path: float = 1e9  # bytes/s of weights through Ray's object store, copies and serialising included
    host_memory: float = 20e9  # bytes/s at which one process on the host updates optimizer states
    storage: float = 2e9  # bytes/s of a checkpoint, all ranks together, on storage that every node shares
    wake_s: float = 1.0  # an engine's sleep and wake

    def lines(self) -> list[str]:
        """As a person reads them."""
        return [
            f"Limit: FLOP over FLOP/s, bytes over bandwidth. Attainable: {self.flops:.0%} of FLOP/s, "
            f"{self.bandwidth:.0%} of memory bandwidth, {self.links:.0%} of links.",
            f"Expected: what published systems reach, {self.systems:.0%} of attainable; not measured on this platform.",
            f"Checkpoints at {self.storage / 1e9:g} GB/s, weights through the object store at "
            f"{self.host_path / 1e9:g} GB/s, offloaded optimizer states at {self.host_memory / 1e9:g} GB/s a process.",
        ]


USUAL = Assumptions()
