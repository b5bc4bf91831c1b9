"""Pretraining gradients mixed into PPO: the language-model loss on text beside the policy loss (PPO-ptx).

Source: InstructGPT, arXiv:2203.02155, section 3.5: objective + γ E[log π(x)] over pretraining text.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf.data.encoding import encode_blocks
from rlhf.data.readers import read_records
from rlhf.data.schemas import text_record
from rlhf.errors import DataError
from rlhf.metrics import Mean
from rlhf.ppo.config import PtxConfig
from rlhf.training.loss import Loss

_FILE = "ptx.safetensors"


@dataclass(frozen=True)
class PtxLoss:
    """Blocks of text [N, L] int64, of which each optimizer step takes `per_step`, shuffled anew in every epoch.

    What a step takes is a pure function of (seed, step), so a resumed run goes on with the same text.
    """

    blocks: Tensor
    per_step: int
    coef: float
    seed: int

    def share(self, step: int, rank: int, ranks: int, budget: int) -> list[Tensor]:
        """A rank's part of the blocks of optimizer step `step`, in micro-batches of at most `budget` tokens."""
        places = [divmod(step * self.per_step + k, len(self.blocks)) for k in range(rank, self.per_step, ranks)]
        orders = {epoch: self._order(epoch) for epoch in {epoch for epoch, _ in places}}
        rows = [orders[epoch][index] for epoch, index in places]
        size = max(1, budget // self.blocks.shape[1])
        return [self.blocks[rows[start : start + size]] for start in range(0, len(rows), size)]

    def _order(self, epoch: int) -> list[int]:
        order = list(range(len(self.blocks)))
        random.Random(f"ptx {self.seed} {epoch}").shuffle(order)
        return order

    def loss(self, model_output: Any, tokens: Tensor) -> Loss:
        """γ times the mean of −log π(x_t | x_<t) over the step; a micro-batch's part of it. Tokens [b, L]."""
        nats = -model_output[0].sum()
        whole = self.per_step * (tokens.shape[1] - 1)
        return Loss(self.coef * nats / whole, {
            "policy/ptx_loss": Mean(float(nats.detach()), float(tokens.shape[0] * (tokens.shape[1] - 1)))
        })


def predicted(tokens: Tensor) -> Tensor:
    """The tokens that a language model predicts: all but the first of each row; [b, L] bool."""
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    return mask


def write_ptx(config: PtxConfig, tokenizer: Any, work: Path) -> None:
    """Tokenise the texts of a config once, for every rank. Raises DataError when they do not fill a step."""
    from safetensors.torch import save_file

    blocks = encode_blocks(tokenizer, _texts(config.texts), config.block_length).columns["input_ids"]
    if len(blocks) < config.blocks_per_step:
        raise DataError(
            f"ptx.texts: {len(blocks)} blocks of {config.block_length} tokens, and a step takes "
            f"{config.blocks_per_step}; give more text, or lower ptx.blocks_per_step or ptx.block_length"
        )
    work.mkdir(parents=True, exist_ok=True)
    save_file({"blocks": torch.tensor(blocks)}, str(work / _FILE))


def read_ptx(config: PtxConfig, work: Path, seed: int) -> PtxLoss:
    """What `write_ptx` has written."""
    from safetensors.torch import load_file

    return PtxLoss(load_file(str(work / _FILE))["blocks"], config.blocks_per_step, config.coef, seed)


def _texts(files: Sequence[str]) -> list[str]:
    return [text_record(record, f"{file}:{line}").text for file in files for line, record in read_records(file)]
