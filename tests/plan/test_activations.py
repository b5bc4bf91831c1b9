"""Activations by the formula, against the tensors that torch keeps for the backward pass of transformers' models."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf.plan.activations import Pass, kept, layer_bytes
from rlhf.plan.sizes import from_transformers

ROWS, LENGTH = 2, 256


def model_of(family: str, layers: int, kv_heads: int, dtype: torch.dtype) -> torch.nn.Module:
    config, model = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "llama": (LlamaConfig, LlamaForCausalLM)}[family]
    return model(config(
        vocab_size=128, hidden_size=512, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=kv_heads,
        intermediate_size=1408, max_position_embeddings=512, tie_word_embeddings=True,
    )).to(dtype).train()


def kept_by_autograd(model: torch.nn.Module) -> int:
    """Bytes of every different storage that a forward pass saves, the parameters' own aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    tokens = torch.zeros((ROWS, LENGTH), dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
    del hidden
    return sum(seen.values())


@pytest.mark.parametrize("family", ["qwen2", "llama"])
@pytest.mark.parametrize("kv_heads", [2, 8])
@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_layer_keeps_what_the_formula_says(family: str, kv_heads: int, dtype: torch.dtype, width: int) -> None:
    """Two depths, so that what the embedding and the last norm keep falls out."""
    two, four = (model_of(family, layers, kv_heads, dtype) for layers in (2, 4))
    per_token = (kept_by_autograd(four) - kept_by_autograd(two)) / 2 / (ROWS * LENGTH)
    assert layer_bytes(from_transformers(four.config.to_dict(), "x"), width) == pytest.approx(per_token, rel=0.002)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.bfloat16, 2)])
def test_a_whole_pass_keeps_what_the_formula_says(dtype: torch.dtype, width: int) -> None:
    model = model_of("qwen2", 4, 2, dtype)
    work = Pass(ROWS * LENGTH, width)
    assert kept(from_transformers(model.config.to_dict(), "x"), work, False) == pytest.approx(
        kept_by_autograd(model), rel=0.03
    )


def test_checkpointing_keeps_inputs_and_one_layer() -> None:
    model = from_transformers(model_of("qwen2", 4, 2, torch.float32).config.to_dict(), "x")
    whole, recomputed = (kept(model, Pass(1000, 4), checkpointing) for checkpointing in (False, True))
    assert whole - recomputed == 1000 * (3 * layer_bytes(model, 4) - 4 * 4 * model.hidden)
