"""Peak memory of the log-probability pass over vocabularies of three sizes, in chunks and plain.

    .venv/bin/python tests/benchmarks/logprob_memory.py

For a fixed number of tokens: what a pass takes at its peak beyond hidden states and output weights, which lie there
before it, in a process of its own each. `plain` is log_softmax over all logits at once. Forward alone (scoring), and
forward and backward into the hidden states (training; the gradient of the weights, which has the weights' size whatever
the way, is left out).
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

TOKENS, WIDTH = 6144, 64
VOCABULARIES = (4_096, 32_768, 152_064)
MIB = 2**20


def chunked(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    from rlhf.objectives.logprobs import token_logprobs

    return token_logprobs(hidden, weight, targets, 1.0)[0]


def plain(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return (hidden @ weight.T).log_softmax(dim=-1).gather(1, targets[:, None]).squeeze(1)


def peak_mib(work: Callable[[], None]) -> float:
    """Largest resident memory during `work` beyond that before it."""
    process, over, largest = psutil.Process(), threading.Event(), 0
    before = process.memory_info().rss

    def watch() -> None:
        nonlocal largest
        while not over.is_set():
            largest = max(largest, process.memory_info().rss)
            time.sleep(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    work()
    over.set()
    thread.join()
    return (largest - before) / MIB


def one(way: str, vocabulary: int, backward: bool) -> float:
    torch.manual_seed(0)
    function = {"chunked": chunked, "plain": plain}[way]
    weight, targets = torch.randn(vocabulary, WIDTH), torch.randint(vocabulary, (TOKENS,))
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=backward)
    function(hidden[:8], weight, targets[:8])  # what is loaded at the first call

    def work() -> None:
        with torch.set_grad_enabled(backward):
            found = function(hidden, weight, targets)
            if backward:
                found.sum().backward()

    return peak_mib(work)


def main() -> None:
    if len(sys.argv) > 1:
        way, vocabulary, backward = sys.argv[1:]
        print(json.dumps(one(way, int(vocabulary), backward == "backward")))
        return
    print(f"{TOKENS} tokens, width {WIDTH}, float32; MiB at the peak\n")
    print("| pass | " + " | ".join(f"vocabulary {size:,}" for size in VOCABULARIES) + " | largest / smallest |")
    print("|---|" + "---:|" * (len(VOCABULARIES) + 1))
    for kind in ("forward", "backward"):
        for way in ("chunked", "plain"):
            found = [measured(way, size, kind) for size in VOCABULARIES]
            cells = " | ".join(f"{mib:,.0f}" for mib in found)
            print(f"| {way}, {kind} | {cells} | {max(found) / min(found):.2f} |", flush=True)


def measured(way: str, vocabulary: int, kind: str) -> float:
    command = [sys.executable, __file__, way, str(vocabulary), kind]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


if __name__ == "__main__":
    main()
