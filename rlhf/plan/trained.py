"""The memory of one rank of a trained model: the policy, the critic, or a model of a Ray Train job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from rlhf.plan import activations
from rlhf.plan.activations import Pass
from rlhf.plan.architecture import Architecture
from rlhf.plan.memory import MAPPED, Memory, Runtime
from rlhf.plan.states import BUCKET, FLOAT32, MAX_LIVE, Counted, States, Zero, gathered, states


class Output(Enum):
    """What stands behind the last layer."""

    LOGPROBS = "log-probabilities, a chunk of the vocabulary at a time"
    LOGITS = "logits of all tokens at once, as transformers' own loss wants them"
    FUSED = "as LOGPROBS in training, as LOGITS in validation: TRL's SFT trainer"
    SCORE = "one number per token or row"


@dataclass(frozen=True)
class Trained:
    """All that decides the memory of one rank. `tokens`: padded tokens of a micro-batch; `accumulated`: bytes of a
    parameter's gradient while micro-batches add up."""

    model: Architecture
    zero: Zero
    width: int
    trained: int
    tokens: int
    output: Output
    checkpointing: bool = False
    accumulated: int = FLOAT32
    averaged: bool = False  # whether an average of the weights is kept, too
    leaves: bool = False  # for the host while engines on the same GPU sample

    @property
    def counted(self) -> Counted:
        return Counted(self.model.parameters, self.trained, self.model.largest_layer)

    def states(self) -> States:
        """Weights, gradients as they add up, and optimizer."""
        found = states(self.counted, self.zero, self.width, self._gradients())
        return States(found.weights + self._average(), found.gradients, found.optimizer, found.host)

    @property
    def offloaded(self) -> float:
        """Bytes of its node's memory that the states of a rank on a GPU take: what the optimizer and the weights keep
        there, and what leaves the GPU while engines sample."""
        held = self.states()
        return held.host + self._leaving(held)

    def memory(self, runtime: Runtime) -> Memory:
        """Of one rank at the peak of an update: of its backward pass, or of its optimizer step."""
        held, work, bucket = self.states(), self._activations(), self._bucket(runtime)
        lasting = bucket if self.zero.stage == 3 else 0.0
        meanwhile = bucket if self.zero.stage >= 2 or runtime.reserves_buckets else 0.0
        buffers = max(meanwhile, bucket + self._clone() - work, lasting + self._step_copy() - work)
        whole = gathered(self.counted, self.zero, self.width)
        stays = held.gradients if self._keeps_gradients else 0.0
        taken = held.weights + held.gradients + held.optimizer + whole + work + buffers
        heap = runtime.heap * taken if self._matrix() < MAPPED else 0.0
        return Memory(
            weights=held.weights, gradients=held.gradients, optimizer=held.optimizer, gathered=whole,
            activations=work, buffers=buffers, heap=heap, runtime=runtime.learner, host=held.host,
            passing=work + whole + buffers - lasting + held.gradients - stays,
            moved=self._leaving(held),
        )

    def _leaving(self, held: States) -> float:
        """Bytes that leave the device while engines sample; averaged weights stay."""
        return held.weights - self._average() + held.optimizer if self.leaves else 0.0

    def _matrix(self) -> float:
        """Bytes of the largest matrix of a layer, as its gradient is made."""
        return FLOAT32 * self.model.hidden * self.model.intermediate

    @property
    def _keeps_gradients(self) -> bool:
        """Whether gradients keep their memory between updates: in the flat buffers of stage 3, and of stage 1 with
        float32 sums."""
        return self.zero.stage == 3 or (self.zero.stage == 1 and self._flat)

    def _gradients(self) -> float:
        """Of a trained parameter. At stage 0 and 1 with float32 sums, bfloat16 gradients lie beside them."""
        if self.zero.stage == 1 and self._flat:
            return self.width + self.accumulated
        return self.width if self.zero.stage == 0 else self.accumulated

    @property
    def _flat(self) -> bool:
        """Whether gradients add up in flat float32 buffers, which the optimizer takes as they are."""
        return self.zero.stage in (1, 2) and self.accumulated > self.width

    def _clone(self) -> float:
        """Stage 1 and 2 copy a rank's gradients when a backward pass ends, unless they lie in a flat buffer."""
        copies = self.zero.stage in (1, 2) and not self._flat
        return self.accumulated * self.trained / self.zero.ranks if copies else 0.0

    def _step_copy(self) -> float:
        """The float32 copy of gradients that an optimizer step makes, where they are not float32 and flat already."""
        share = self.trained / (self.zero.ranks if self.zero.stage else 1)
        if self._flat or self.zero.offload_optimizer or (self.zero.stage == 0 and self.width == FLOAT32):
            return 0.0
        return FLOAT32 * (min(share, MAX_LIVE) if self.zero.stage == 3 else share)  # stage 3: one sub-group at a time

    def _bucket(self, runtime: Runtime) -> float:
        """Where gradients wait for their reduction: two buckets of stage 1 and 2 on a GPU, one of stage 3."""
        size = BUCKET if runtime.reserves_buckets else min(BUCKET, self.trained)
        if self.zero.stage == 0 or (self.zero.stage == 1 and self._flat):
            return 0.0
        return self.width * size * (2 if self.zero.stage < 3 and runtime.reserves_buckets else 1)

    def _average(self) -> float:
        if not self.averaged:
            return 0.0
        return FLOAT32 * self.trained / (self.zero.ranks if self.zero.stage == 3 else 1)

    def _activations(self) -> float:
        work = Pass(self.tokens, self.width)
        kept = activations.kept(self.model, work, self.checkpointing)
        training = kept + max(self._head(), activations.backward(self.model, work))
        if self.output is not Output.FUSED:
            return training
        return max(training, activations.whole_logits(self.model, self.tokens, self.width, with_gradient=False))

    def _head(self) -> float:
        if self.output is Output.SCORE:
            return 0.0
        if self.output is Output.LOGITS:
            return activations.whole_logits(self.model, self.tokens, self.width)
        whole = self.trained == self.model.parameters or self.trained > self.model.embedding
        gradient = activations.head_gradient(self.model, self.width) if whole else 0
        return activations.chunked_head(self.model, Pass(self.tokens, self.width)) + gradient
