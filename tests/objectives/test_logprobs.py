"""Log-probabilities in chunks: the numbers and gradients of plain log-softmax, in bounded memory."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlhf.objectives.logprobs import token_logprobs

VOCABULARY, HIDDEN = 211, 6


def inputs(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, HIDDEN, generator=generator).requires_grad_()
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(VOCABULARY, (count,), generator=generator)


def plain(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax(hidden @ weight.T / temperature, dim=-1)
    return log_p.gather(1, targets[:, None]).squeeze(1), -(log_p.exp() * log_p).sum(dim=-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 2.0])
@pytest.mark.parametrize("chunk_rows", [1, 4, 13, 100])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_equals_plain_log_softmax_with_its_gradients(temperature: float, chunk_rows: int, with_entropy: bool) -> None:
    hidden, weight, targets = inputs(13)
    found = token_logprobs(hidden, weight, targets, temperature, chunk_rows * VOCABULARY)
    wanted = plain(hidden, weight, targets, temperature)
    coefficients = torch.linspace(-1, 1, 13)
    gradients = []
    for logprobs, entropy in (found, wanted):
        loss = (logprobs * coefficients).sum() + (entropy.square().sum() if with_entropy else 0.0)
        gradients.append(torch.autograd.grad(loss, (hidden, weight)))
    for got, expected in zip([*found, *gradients[0]], [*wanted, *gradients[1]], strict=True):
        torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


def test_chunks_give_the_same_as_one_piece() -> None:
    hidden, weight, targets = inputs(50)
    results = []
    for rows in (50, 7):
        logprobs, entropy = token_logprobs(hidden, weight, targets, 1.0, rows * VOCABULARY)
        results.append([logprobs, entropy, *torch.autograd.grad((logprobs - entropy).sum(), (hidden, weight))])
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, atol=2e-5, rtol=1e-5)


def test_bfloat16_weights_keep_their_dtype_and_answer_in_float32() -> None:
    hidden, weight, targets = (t.bfloat16().detach() if t.is_floating_point() else t for t in inputs(9))
    hidden.requires_grad_()
    weight.requires_grad_()
    logprobs, entropy = token_logprobs(hidden, weight, targets, 1.0, 2 * VOCABULARY)
    logprobs.sum().backward()
    assert (logprobs.dtype, entropy.dtype) == (torch.float32, torch.float32)
    assert (hidden.grad.dtype, weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)


def test_no_rows_give_no_numbers_and_a_gradient_of_zero() -> None:
    """A rank without response tokens still takes part in the collectives of the backward pass."""
    hidden, weight, targets = inputs(0)
    logprobs, entropy = token_logprobs(hidden, weight, targets)
    (logprobs.sum() + entropy.sum()).backward()
    assert logprobs.shape == (0,) and hidden.grad.shape == (0, HIDDEN) and not weight.grad.any()


class LogitsInMemory(TorchDispatchMode):
    """Follows the floating-point tensors with a column per word: the largest, and the most alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.largest, self.alive, self.peak = 0, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves(args) if isinstance(leaf, Tensor)}
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and self._has_logits(tensor) and tensor.untyped_storage()._cdata not in given:
                self._follow(tensor)
        return result

    def _has_logits(self, tensor: Tensor) -> bool:
        return tensor.is_floating_point() and tensor.shape[-1:] == (VOCABULARY,)

    def _follow(self, tensor: Tensor) -> None:
        size = tensor.numel()
        self.largest = max(self.largest, size)
        self.alive += size
        self.peak = max(self.peak, self.alive)
        weakref.finalize(tensor, self._forget, size)

    def _forget(self, size: int) -> None:
        self.alive -= size


def logits_of_a_training_pass(count: int, chunk_rows: int) -> LogitsInMemory:
    hidden, weight, targets = inputs(count)
    with LogitsInMemory() as memory:
        logprobs, entropy = token_logprobs(hidden, weight, targets, 0.9, chunk_rows * VOCABULARY)
        (logprobs.sum() + entropy.sum()).backward()
    return memory


def test_memory_does_not_grow_with_the_number_of_tokens() -> None:
    few, many = logits_of_a_training_pass(64, 8), logits_of_a_training_pass(1024, 8)
    assert few.largest == many.largest == 8 * VOCABULARY
    assert few.peak == many.peak <= 6 * 8 * VOCABULARY


def test_the_watch_sees_plain_log_softmax() -> None:
    """So that the test above cannot pass by looking away."""
    hidden, weight, targets = inputs(2048)
    with LogitsInMemory() as memory:
        sum(part.sum() for part in plain(hidden, weight, targets, 0.9)).backward()
    assert memory.largest == 2048 * VOCABULARY
