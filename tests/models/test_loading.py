"""Models that serve their role, and one clear sentence for those that do not."""

import pytest
import torch

from rlhf.errors import ConfigError, ModelError
from rlhf.models import loading
from rlhf.tokenization.train import train_tokenizer

SIZES = loading.NewModelConfig(hidden_size=16, layers=1, heads=2, kv_heads=1, intermediate_size=32, max_positions=64)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["some words to learn from"] * 4, 300)


@pytest.fixture(scope="module")
def language_model(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    loading.new_causal_lm(SIZES, tokenizer, seed=1).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_new_model_fits_its_tokenizer_and_its_seed(tokenizer):
    first, same, other = (loading.new_causal_lm(SIZES, tokenizer, seed) for seed in (1, 1, 2))
    assert first.config.vocab_size == len(tokenizer)
    assert (first.config.eos_token_id, first.config.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert first.get_input_embeddings().weight is first.get_output_embeddings().weight
    assert torch.equal(first.lm_head.weight, same.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_sizes_that_do_not_divide():
    from rlhf.config import validate

    with pytest.raises(ConfigError, match="hidden_size 10 is not an even multiple of heads 4"):
        validate(loading.NewModelConfig, {"hidden_size": 10})
    with pytest.raises(ConfigError, match="heads 4 is not a multiple of kv_heads 3"):
        validate(loading.NewModelConfig, {"kv_heads": 3})


def test_saved_models_come_back(language_model):
    model = loading.load_causal_lm(language_model, torch.float32)
    assert model.dtype == torch.float32
    loaded = loading.load_tokenizer(language_model)
    assert (loaded.eos_token, loaded.pad_token, loaded.padding_side) == ("<|im_end|>", "<|endoftext|>", "right")


def test_a_reward_model_has_one_output(language_model, tmp_path):
    model = loading.new_reward_model(language_model, torch.float32, seed=3)
    assert model.config.num_labels == 1
    assert tuple(model.score.weight.shape) == (1, 16)
    again = loading.new_reward_model(language_model, torch.float32, seed=3)
    assert torch.equal(model.score.weight, again.score.weight)
    model.save_pretrained(tmp_path)
    assert torch.equal(loading.load_reward_model(tmp_path, torch.float32).score.weight, model.score.weight)


def test_what_is_no_reward_model(language_model, tmp_path):
    with pytest.raises(ModelError, match=r"not a reward model .a sequence classifier.: it holds a Qwen2ForCausalLM"):
        loading.load_reward_model(language_model, torch.float32)
    from transformers import AutoModelForSequenceClassification

    two = AutoModelForSequenceClassification.from_pretrained(language_model, num_labels=2)
    two.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="not a reward model: it has 2 outputs"):
        loading.check_reward_model(tmp_path)
    with pytest.raises(ModelError, match="not a causal language model"):
        loading.load_causal_lm(tmp_path, torch.float32)


def test_tokenizers_that_do_not_fit(tokenizer, language_model):
    config = loading.load_config(language_model)
    loading.check_tokenizer(tokenizer, config, "t")
    larger = train_tokenizer(["some words to learn from, and some more 0123"] * 4, 320)
    assert len(larger) > len(tokenizer)
    with pytest.raises(ModelError, match="does not fit the model: it produces ids up to"):
        loading.check_tokenizer(larger, config, "t")
    tokenizer_without_template = loading.load_tokenizer(language_model)
    tokenizer_without_template.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        loading.require_chat_template(tokenizer_without_template, "t")


def test_templates_without_marks_are_replaced_or_refused(language_model):
    from trl.chat_template_utils import qwen2_5_chat_template

    tokenizer = loading.load_tokenizer(language_model)
    assert loading.training_template(tokenizer, "t") is None
    tokenizer.chat_template = qwen2_5_chat_template
    assert "generation" in loading.training_template(tokenizer, "t")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ModelError, match="does not mark what the assistant writes"):
        loading.training_template(tokenizer, "t")


def test_examples_longer_than_the_context(language_model):
    config = loading.load_config(language_model)
    loading.check_length(config, 64, language_model, "max_length")
    with pytest.raises(ModelError, match=r"max_length is 65 tokens, but the context of .* has 64"):
        loading.check_length(config, 65, language_model, "max_length")


@pytest.mark.parametrize("load", [loading.load_tokenizer, loading.load_config, loading.check_reward_model])
def test_missing_and_empty_directories(load, tmp_path):
    with pytest.raises(ModelError, match="no such directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="no usable"):
        load(tmp_path)


def test_damaged_weights(language_model, tmp_path):
    import shutil

    shutil.copytree(language_model, tmp_path, dirs_exist_ok=True)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="no usable causal language model"):
        loading.load_causal_lm(tmp_path, torch.float32)
