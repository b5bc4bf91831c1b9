"""Sizes of models: the table against models that transformers builds from the same sizes, and what is no decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rlhf.errors import ConfigError
from rlhf.models.loading import NewModelConfig
from rlhf.plan.architecture import Architecture
from rlhf.plan.demands import trained
from rlhf.plan.models import TABLE, find, require
from rlhf.plan.sizes import _KEYS, Sizes, from_directory, from_transformers
from rlhf.ppo.config import LoraConfig

# As the authors state them, billions.
STATED = {"Llama-2-7B": 6.74, "Llama-3-8B": 8.03, "Llama-3-70B": 70.6, "Qwen2.5-0.5B": 0.49, "Qwen2.5-7B": 7.61,
          "Qwen2.5-32B": 32.5, "Qwen2.5-72B": 72.7}


def built(sizes: Architecture, classifier: bool = False):
    """The transformers model of these sizes, without memory for its weights."""
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        LlamaForSequenceClassification,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen2ForSequenceClassification,
    )

    config = (Qwen2Config if sizes.bias else LlamaConfig)(
        vocab_size=sizes.vocab, hidden_size=sizes.hidden, num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads, num_key_value_heads=sizes.kv_heads, intermediate_size=sizes.intermediate,
        tie_word_embeddings=sizes.tied, num_labels=1,
    )
    families = {
        (True, False): Qwen2ForCausalLM, (True, True): Qwen2ForSequenceClassification,
        (False, False): LlamaForCausalLM, (False, True): LlamaForSequenceClassification,
    }
    with torch.device("meta"):
        return families[sizes.bias, classifier](config)


@pytest.mark.parametrize("name", TABLE)
def test_parameters_are_those_of_the_built_model(name: str) -> None:
    sizes = TABLE[name]
    assert sizes.parameters == built(sizes).num_parameters()
    assert sizes.parameters / 1e9 == pytest.approx(STATED.get(sizes.name, sizes.parameters / 1e9), rel=0.01)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "meta-llama/Meta-Llama-3-8B"])
def test_a_scoring_head_takes_the_place_of_the_output_embedding(name: str) -> None:
    assert TABLE[name].scored().parameters == built(TABLE[name], classifier=True).num_parameters()


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "meta-llama/Meta-Llama-3-8B"])
def test_adapters_are_counted_as_peft_makes_them(name: str) -> None:
    from rlhf.training.lora import add_adapters

    for config in (LoraConfig(rank=8), LoraConfig(rank=4, layers=["q_proj", "v_proj"])):
        model = built(TABLE[name])
        add_adapters(model, config, seed=0)
        made = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        assert trained(TABLE[name], config, 0) == made


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("Qwen/Qwen2.5-7B", "Qwen2.5-7B"), ("Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B"), ("qwen2.5-7b", "Qwen2.5-7B"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "Llama-3-8B"), ("Llama-3-8B", "Llama-3-8B"), ("7B-like", "Llama-2-7B"),
        ("/shared/runs/Meta-Llama-3-70B-sft", "Llama-3-70B"), ("/shared/Qwen2.5-7B-reward", "Qwen2.5-7B"),
    ],
)
def test_names_that_are_known(written: str, found: str) -> None:
    assert require(written, "policy.model").name == found


def test_an_unknown_name_is_one_sentence() -> None:
    assert find("somebody/else") is None
    with pytest.raises(ConfigError, match=r"policy\.model: the sizes of 'x/Qwen2\.5-8B' are not known here, did"):
        require("x/Qwen2.5-8B", "policy.model")


def test_a_config_that_lies_here_wins(tmp_path: Path) -> None:
    directory = tmp_path / "Qwen2.5-0.5B"
    built(replace(TABLE["Qwen/Qwen2.5-0.5B"], layers=3)).config.save_pretrained(directory)
    assert Sizes().of(str(directory), "model").layers == 3
    override = Sizes(override=TABLE["Qwen/Qwen2.5-7B"])
    assert override.of(str(directory), "model").name == "Qwen2.5-7B"


def test_what_is_no_plain_decoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        from_directory(tmp_path)
    sizes = dict.fromkeys(_KEYS, 8)
    for content, complaint in (
        ({"hidden_size": 8}, "num_hidden_layers"), ({"num_experts": 8}, "mixture of experts"),
        ({**sizes, "vocab_size": 0}, "vocab_size is 0, and no positive whole number"),
        ({**sizes, "hidden_size": []}, r"hidden_size is \[\], and no positive"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(content))
        with pytest.raises(ConfigError, match=complaint):
            from_directory(tmp_path)


def test_a_model_that_a_stage_will_make() -> None:
    sizes = Sizes(vocabularies={Path("tokens").absolute(): 768})
    made = sizes.new(NewModelConfig(), "tokens")
    assert (made.vocab, made.hidden, made.layers) == (768, 128, 4)
    sizes.made[Path("run/sft").absolute()] = made
    assert sizes.of("run/sft", "model") is made
    with pytest.raises(ConfigError, match="names no vocabulary"):
        sizes.new(NewModelConfig(), "absent")


def test_transformers_configs_of_other_shapes() -> None:
    content = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
               "vocab_size": 100, "model_type": "qwen2", "architectures": ["Qwen2ForSequenceClassification"]}
    found = from_transformers({"text_config": content}, "x")
    assert (found.kv_heads, found.head_dim, found.bias, found.output) == (4, 16, True, False)
