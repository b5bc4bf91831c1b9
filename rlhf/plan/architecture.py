"""The sizes of a decoder-only transformer, and what follows from them: parameters, largest layer, KV cache."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property


@dataclass(frozen=True)
class Architecture:
    """A Llama- or Qwen2-like decoder: grouped-query attention, gated feed-forward layer, RMS norms.

    `bias` counts bias vectors on query, key and value (Qwen2), `norms` the extra norms of query and key (Qwen3).
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    bias: bool = False
    norms: bool = False
    context: int = 0
    output: bool = True  # False: a one-output score in place of the output embedding

    @property
    def query(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all key heads together, which is that of the value heads."""
        return self.kv_heads * self.head_dim

    @property
    def linear_shapes(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one decoder layer, by their transformers names."""
        wide, narrow = self.intermediate, self.hidden
        return {
            "q_proj": (narrow, self.query), "k_proj": (narrow, self.key), "v_proj": (narrow, self.key),
            "o_proj": (self.query, narrow), "gate_proj": (narrow, wide), "up_proj": (narrow, wide),
            "down_proj": (wide, narrow),
        }

    @cached_property
    def layer_parameters(self) -> int:
        """Parameters of one decoder layer."""
        matrices = sum(inputs * outputs for inputs, outputs in self.linear_shapes.values())
        biases = self.query + 2 * self.key if self.bias else 0
        return matrices + biases + 2 * self.hidden + (2 * self.head_dim if self.norms else 0)

    @property
    def embedding(self) -> int:
        """Parameters of the input embedding; the output embedding has as many."""
        return self.vocab * self.hidden

    @property
    def head(self) -> int:
        """Parameters behind the last norm that are not the input embedding's."""
        if not self.output:
            return self.hidden
        return 0 if self.tied else self.embedding

    @cached_property
    def parameters(self) -> int:
        """All parameters; tied ones count once."""
        return self.embedding + self.layers * self.layer_parameters + self.hidden + self.head

    @property
    def matmul_parameters(self) -> int:
        """Parameters that every token is multiplied with; the input embedding is only looked up."""
        output = self.embedding if self.output else self.hidden
        return self.layers * self.layer_parameters + output

    @property
    def largest_layer(self) -> int:
        """Parameters of the largest module that ZeRO-3 gathers at once: a decoder layer, or an embedding."""
        return max(self.layer_parameters, self.embedding)

    def kv_bytes(self, width: int) -> int:
        """Bytes of the KV cache per token, numbers being `width` bytes wide."""
        return 2 * self.layers * self.key * width

    def attention_flops(self, length: float) -> float:
        """FLOP of a forward pass per token for scores and their sum over values, causal, at a mean length of
        `length` tokens: 4 · layers · width · length / 2."""
        return 2.0 * self.layers * self.query * length

    def scored(self) -> Architecture:
        """The same body under a head with one output: a critic or a reward model."""
        return replace(self, output=False)
