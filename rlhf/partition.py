"""Which rows go to which rank and into which micro-batch: by tokens, never by row count.

Every rank derives the same plan from the same lengths, so ranks agree on the number of micro-batches
without talking; a rank that runs out of rows gets empty micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence

# Below this share of real tokens, a micro-batch costs more in padding than a further pass costs in overhead.
MIN_DENSITY = 0.8
# A pass over fewer tokens than this is dominated by overhead that does not depend on its size.
MIN_TOKENS = 512


def balance(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Split rows into `ranks` parts of nearly equal token sums (longest first, to the lightest part).

    Rows inside a part keep their order. Source: Graham 1969, LPT scheduling.
    """
    totals = [0] * ranks
    parts: list[list[int]] = [[] for _ in range(ranks)]
    for row in sorted(range(len(lengths)), key=lambda r: (-lengths[r], r)):
        lightest = min(range(ranks), key=lambda k: (totals[k], len(parts[k]), k))
        parts[lightest].append(row)
        totals[lightest] += lengths[row]
    return [sorted(part) for part in parts]


def micro_batches(lengths: Sequence[int], rows: Sequence[int], budget: int) -> list[list[int]]:
    """Cut `rows`, sorted by length, into micro-batches whose padded size stays within `budget` tokens.

    A single row longer than the budget stands alone. A micro-batch is also cut where padding would
    waste more than a further pass costs.
    """
    batches: list[list[int]] = []
    current: list[int] = []
    tokens = 0
    for row in sorted(rows, key=lambda r: (-lengths[r], r)):
        width = lengths[current[0]] if current else lengths[row]
        padded = width * (len(current) + 1)
        wasteful = tokens >= MIN_TOKENS and (tokens + lengths[row]) < MIN_DENSITY * padded
        if current and (padded > budget or wasteful):
            batches.append(current)
            current, tokens = [], 0
        current.append(row)
        tokens += lengths[row]
    return [*batches, current] if current else batches


def plan(lengths: Sequence[int], parts: Sequence[Sequence[int]], budget: int) -> list[list[list[int]]]:
    """Micro-batches of every rank, filled up with empty ones to the same number on all ranks."""
    per_rank = [micro_batches(lengths, part, budget) for part in parts]
    most = max(len(batches) for batches in per_rank)
    return [batches + [[] for _ in range(most - len(batches))] for batches in per_rank]


def minibatches(count: int, parts: int, seed: int) -> list[list[int]]:
    """Shuffle `count` rows under `seed` and deal them into `parts` optimizer steps of nearly equal size."""
    import random

    order = list(range(count))
    if parts > 1:
        random.Random(seed).shuffle(order)
    return [sorted(order[k::parts]) for k in range(parts)]
