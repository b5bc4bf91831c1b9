"""Adapters change nothing at first, are the only thing trained, and are the same model when merged."""

from __future__ import annotations

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.ppo.config import LoraConfig
from rlhf.training.lora import add_adapters, is_adapter, merged, plain_name, save_adapters

TOKENS = torch.arange(3, 33).reshape(2, 15)


def qwen(tied: bool = False):
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    config = Qwen2Config(**sizes, num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=tied)
    return Qwen2ForCausalLM(config).eval()


def adapted(config: LoraConfig, tied: bool = False):
    """A model with adapters that change something."""
    model = qwen(tied)
    add_adapters(model, config, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model(TOKENS).logits


def test_new_adapters_change_nothing_and_are_the_same_for_a_seed() -> None:
    model, other = qwen(), qwen()
    before = logits(model)
    add_adapters(model, LoraConfig(rank=4), seed=1)
    add_adapters(other, LoraConfig(rank=4), seed=1)
    assert torch.equal(logits(model), before)
    for (name, mine), (_, theirs) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name


def test_only_adapters_are_trained() -> None:
    model = adapted(LoraConfig(rank=4))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if is_adapter(name)}
    assert len(trained) == 2 * 7 * 2  # A and B of seven projections in two layers; none at the output


def test_the_names_of_layers_choose() -> None:
    model = adapted(LoraConfig(rank=4, layers=["q_proj", "v_proj"]))
    layers = {name.split(".lora_")[0].split(".")[-1] for name, _ in model.named_parameters() if is_adapter(name)}
    assert layers == {"q_proj", "v_proj"}
    for wrong in ("nowhere", "lm_head", "embed_tokens", "self_attn"):
        with pytest.raises(ConfigError, match=rf"policy\.lora\.layers: '{wrong}' is no linear layer.*q_proj"):
            adapted(LoraConfig(layers=["q_proj", wrong]))


@pytest.mark.parametrize("tied", [True, False])
def test_merged_weights_are_the_same_model_under_its_own_names(tied: bool) -> None:
    model, plain = adapted(LoraConfig(rank=4, alpha=12), tied), qwen(tied)
    state = {
        plain_name(name): merged(model.get_submodule(name.removesuffix(".base_layer.weight")))
        if name.endswith(".base_layer.weight") else parameter.detach()
        for name, parameter in model.named_parameters(remove_duplicate=False) if not is_adapter(name)
    }
    assert state.keys() == {name for name, _ in plain.named_parameters(remove_duplicate=False)}
    before = logits(plain)
    plain.load_state_dict(state)
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-5, rtol=0)
    assert float((before - logits(plain)).abs().max()) > 1e-2


def test_peft_reads_the_saved_adapters(tmp_path) -> None:
    from peft import PeftModel

    config = LoraConfig(rank=4, alpha=12, layers=["q_proj", "down_proj"])
    model = adapted(config)
    weights = {name: value.detach() for name, value in model.named_parameters() if is_adapter(name)}
    save_adapters(weights, config, "base", tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(qwen(), str(tmp_path / "adapter")).eval()
    torch.testing.assert_close(logits(loaded), logits(model), atol=1e-6, rtol=0)
