"""Advantages per response from scores alone: the other responses to the same prompt are the baseline.

scores [B] float32; groups [B] int64, where rows of equal id answer the same prompt. Ids are arbitrary, rows come in
any order, and groups may differ in size. Sums are in float64, so that equal scores give exactly 0 and not their
rounding; results have the dtype of scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

# TRL's. A group whose scores differ only by the rounding of a reward model in other micro-batches (1e-6) says
# nothing, and must not be blown up to unit variance.
SCALE_EPSILON = 1e-4


def group_mean_baseline(scores: Tensor, groups: Tensor) -> Tensor:
    """A_i = r_i − mean of the group; 0 for a group of one.

    With whitening over the whole batch after it, the baseline variant of REINFORCE++ (arXiv:2501.03262).
    Returns [B].
    """
    return _centred(scores, groups).to(scores.dtype)


def group_relative(scores: Tensor, groups: Tensor, scale: bool) -> Tensor:
    """A_i = (r_i − mean) / (std + 1e-4) of the group; without `scale`, r_i − mean. A group of one has advantage 0.

    The standard deviation is the unbiased one (n − 1), as in TRL 1.16; the paper leaves it open.
    Sources: GRPO, Shao et al. 2024, arXiv:2402.03300, section 4.1.2; without scale: Dr. GRPO, Liu et al. 2025,
    arXiv:2503.20783. Returns [B].
    """
    centred = _centred(scores, groups)
    if scale:
        member, sizes = _membership(groups)
        variance = _sum_by(centred.square(), member, len(sizes)) / (sizes - 1).clamp(min=1)
        centred = centred / (variance.sqrt() + SCALE_EPSILON)[member]
    return centred.to(scores.dtype)


def leave_one_out(scores: Tensor, groups: Tensor) -> Tensor:
    """A_i = r_i − mean of the other scores of the group, which is n / (n − 1) times the deviation from its mean.

    A group of one has advantage 0. Source: RLOO, Ahmadian et al. 2024, arXiv:2402.14740. Returns [B].
    """
    member, sizes = _membership(groups)
    bessel = (sizes.double() / (sizes - 1).clamp(min=1))[member]
    return (_centred(scores, groups) * bessel).to(scores.dtype)


def greedy_baseline(scores: Tensor, greedy_scores: Tensor) -> Tensor:
    """A_i = r_i − score of the greedy response to the same prompt.

    Source: ReMax, Li et al. 2023, arXiv:2310.10505. Args: both [B], row by row: responses to one prompt
    repeat its greedy score. Returns [B]. Raises ValueError when the shapes differ.
    """
    if scores.shape != greedy_scores.shape:
        raise ValueError(
            f"one greedy score per response: {list(scores.shape)} scores, {list(greedy_scores.shape)} greedy scores"
        )
    return scores - greedy_scores


def informative_groups(scores: Tensor, groups: Tensor) -> Tensor:
    """Which rows lie in a group whose scores are not all equal; the others have advantage 0 in every estimator above.

    A group of one is not informative. Source: dynamic sampling of DAPO, arXiv:2503.14476, section 3.2 (there, on
    scores of 0 and 1: accuracy strictly between). Returns [B] bool.
    """
    member, sizes = _membership(groups)
    highest = scores.new_full(sizes.shape, -torch.inf).scatter_reduce(0, member, scores, "amax")
    lowest = scores.new_full(sizes.shape, torch.inf).scatter_reduce(0, member, scores, "amin")
    return (highest != lowest)[member]


def without(rows: Tensor, groups: Tensor) -> Tensor:
    """Group ids in which each of `rows` [B] bool is a group of its own, so that no other is compared with it. [B]."""
    alone = torch.arange(len(groups)) + int(groups.max()) + 1 if len(groups) else groups
    return torch.where(rows, alone, groups)


def _membership(groups: Tensor) -> tuple[Tensor, Tensor]:
    """The index of each row's group, [B] int64, and the size of each group, [G] int64."""
    _, member, sizes = torch.unique(groups, return_inverse=True, return_counts=True)
    return member, sizes


def _sum_by(values: Tensor, member: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_add(0, member, values)


def _centred(scores: Tensor, groups: Tensor) -> Tensor:
    """Deviation of each score from the mean of its group, [B] float64."""
    member, sizes = _membership(groups)
    exact = scores.double()
    return exact - (_sum_by(exact, member, len(sizes)) / sizes)[member]
