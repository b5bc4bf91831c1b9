"""The memory of roles that are not trained: the reference, reward models, and the engines that sample."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.plan import activations
from rlhf.plan.activations import Pass
from rlhf.plan.architecture import Architecture
from rlhf.plan.hardware import GIB
from rlhf.plan.memory import Memory, Runtime
from rlhf.plan.states import Counted, Zero, gathered

BATCHED_TOKENS = 8192  # prompt tokens of one step of an engine, as rlhf/sampling/vllm_engine.py asks for


@dataclass(frozen=True)
class Frozen:
    """A model that only scores; its weights may be divided over the ranks of its role, as ZeRO-3 does."""

    model: Architecture
    width: int
    tokens: int
    ranks: int = 1  # over which the weights are divided

    def memory(self, runtime: Runtime) -> Memory:
        one = Pass(self.tokens, self.width)
        work = activations.forward(self.model, one)
        head = activations.chunked_head(self.model, one) if self.model.output else 0
        count = self.model.parameters
        whole = gathered(Counted(count, 0, self.model.largest_layer), Zero(3, self.ranks), self.width)
        passing = whole if self.ranks > 1 else 0.0
        return Memory(
            weights=self.width * count / self.ranks, gathered=passing, activations=work + head,
            runtime=runtime.frozen, passing=work + head + passing,
        )


@dataclass(frozen=True)
class Engine:
    """A vLLM engine of `tensor_parallel` GPUs: what one of them holds."""

    model: Architecture
    width: int
    tensor_parallel: int
    sequences: int  # that it runs at once
    context: int  # tokens of a sequence at most
    sleeps: bool = False
    transfer: float = 0.0  # bytes in which new weights arrive, beside what the engine may take

    @property
    def weights(self) -> float:
        """Of one GPU. Embeddings are divided, too; norms are not, and are next to nothing."""
        return self.width * self.model.parameters / self.tensor_parallel

    @property
    def workspace(self) -> float:
        """Activations of a full prefill step, and logits of every sequence in float32, twice."""
        wide = 3 * self.model.intermediate / self.tensor_parallel + 4 * self.model.hidden
        return BATCHED_TOKENS * self.width * wide + 2 * 4 * self.sequences * self.model.vocab

    def on_gpu(self, budget: float, runtime: Runtime) -> Memory:
        """`budget`: bytes of the GPU that the engine may take; its KV cache is what weights and workspace leave."""
        cache = max(0.0, budget - self.weights - self.workspace)
        buffers = self.workspace + self.transfer
        passing = self.weights + cache + buffers if self.sleeps else 0.0
        return Memory(weights=self.weights, kv_cache=cache, buffers=buffers, runtime=runtime.engine, passing=passing)

    def on_cpu(self, cache_gib: int, runtime: Runtime) -> Memory:
        """With the prompts of a whole step. Measured of 30 and 89 million parameters: twice what a layer computes."""
        work = 2 * activations.forward(self.model, Pass(BATCHED_TOKENS, self.width))
        return Memory(weights=self.weights, kv_cache=cache_gib * GIB, activations=work, runtime=runtime.engine)

    def cached_tokens(self, memory: Memory) -> float:
        """Tokens that the KV cache of the whole engine holds."""
        return memory.kv_cache * self.tensor_parallel / self.model.kv_bytes(self.width)
