"""Loads tokenizers and models from a directory or a hub name, and refuses those that do not serve.

Code that comes with a model is never run (`trust_remote_code` stays off), and weights are safetensors: pickled ones
are refused. They are read as they lie: the caller says in which precision they are held.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from rlhf.config import Config
from rlhf.errors import ModelError
from rlhf.models.pickles import require_no_adapter, require_safetensors
from rlhf.models.sources import naming, require_weights

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


class NewModelConfig(Config):
    """Sizes of a Qwen2 model that starts from random weights."""

    kind: Literal["new"] = "new"
    hidden_size: int = Field(128, gt=0, description="width of the residual stream")
    layers: int = Field(4, gt=0, description="number of decoder layers")
    heads: int = Field(4, gt=0, description="attention heads; divides hidden_size")
    kv_heads: int = Field(4, gt=0, description="key and value heads; divides heads")
    intermediate_size: int = Field(352, gt=0, description="width of the gated feed-forward layer")
    max_positions: int = Field(512, gt=0, description="longest sequence the model is made for, tokens")
    rope_theta: float = Field(10_000.0, gt=0, description="base of the rotary position embedding")
    initializer_range: float = Field(
        0.02, gt=0, description="standard deviation of new weights; narrow models learn faster near 1 / √hidden_size"
    )
    tie_embeddings: bool = Field(True, description="one matrix for input and output embeddings")

    @model_validator(mode="after")
    def _heads_divide(self) -> NewModelConfig:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size {self.hidden_size} is not an even multiple of heads {self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}")
        return self


def load_tokenizer(source: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory or hub name, padding on the right.

    Raises ModelError when there is none, or when it has no vocabulary or no end-of-sequence token.
    """
    from transformers import AutoTokenizer

    with naming(source, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        known = set(tokenizer.get_vocab())
    if known <= {str(token) for token in tokenizer.added_tokens_decoder.values()}:
        # transformers makes an empty one where the file is missing, and that turns every text into nothing
        raise ModelError(f"{source}: the tokenizer has no vocabulary; its tokenizer.json is missing, or empty")
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{source}: the tokenizer has no end-of-sequence token; set its eos_token")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def require_chat_template(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> None:
    """Raises ModelError when conversations cannot be rendered."""
    if not tokenizer.chat_template:
        raise ModelError(f"{source}: the tokenizer has no chat template; add chat_template.jinja, or use another")


def training_template(tokenizer: PreTrainedTokenizerBase, source: str | Path) -> str | None:
    """A chat template that marks what the assistant writes; None where the tokenizer's own does.

    TRL has one for each well-known family. Raises ModelError for a template without marks that it does not know.
    """
    if re.search(r"{%-?\s*generation\s*-?%}", str(tokenizer.chat_template)):
        return None
    from trl.chat_template_utils import get_training_chat_template

    try:
        return get_training_chat_template(tokenizer)
    except ValueError:
        marks = "{% generation %} and {% endgeneration %}"
        raise ModelError(
            f"{source}: the chat template does not mark what the assistant writes; put {marks} round it"
        ) from None


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, source: str | Path) -> None:
    """Raises ModelError when the tokenizer can produce ids that the model has no embedding for."""
    size = config.get_text_config().vocab_size
    highest = max(tokenizer.get_vocab().values())
    if highest >= size:
        raise ModelError(
            f"{source}: the tokenizer does not fit the model: it produces ids up to {highest} "
            f"({len(tokenizer)} tokens), the model has embeddings for {size}; give the model's own tokenizer"
        )


def check_same_tokenizer(tokenizer: PreTrainedTokenizerBase, source: str | Path, policy: str | Path) -> None:
    """Raises ModelError when the model brings a tokenizer with other ids than the policy's: it would misread."""
    try:
        own = load_tokenizer(source)
    except ModelError:  # it brings none
        return
    if own.get_vocab() != tokenizer.get_vocab():
        raise ModelError(
            f"{source}: its tokenizer is not that of {policy}, and roles exchange token ids; use models that were "
            f"trained with one tokenizer"
        )


def check_length(config: PreTrainedConfig, length: int, source: str | Path, key: str) -> None:
    """Raises ModelError when examples of `length` tokens do not fit into the model's context."""
    room = getattr(config.get_text_config(), "max_position_embeddings", None)
    if room is not None and length > room:
        raise ModelError(f"{key} is {length} tokens, but the context of {source} has {room}; lower {key}")


def load_config(source: str | Path) -> PreTrainedConfig:
    """The model config of a directory or hub name; ModelError when there is none, or an adapter with it."""
    from transformers import AutoConfig

    with naming(source, "model"):
        require_no_adapter(source)
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def load_causal_lm(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A causal language model; ModelError when the source holds none, or not all of its weights."""
    from transformers import AutoModelForCausalLM

    config = load_config(source)
    _require_architecture(config, source, "ForCausalLM", "a causal language model")
    with naming(source, "causal language model"):
        require_safetensors(source)
        model, found = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True, use_safetensors=True
        )
    require_weights(found["missing_keys"], source)
    return model


def check_reward_model(source: str | Path) -> PreTrainedConfig:
    """The config of a reward model, read without its weights; ModelError when it is none."""
    config = load_config(source)
    _require_architecture(config, source, "ForSequenceClassification", "a reward model (a sequence classifier)")
    if config.num_labels != 1:
        raise ModelError(f"{source}: not a reward model: it has {config.num_labels} outputs, a reward model has one")
    return config


def load_reward_model(source: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A one-output sequence classifier; ModelError when the source is none, or lacks weights (its head, perhaps)."""
    from transformers import AutoModelForSequenceClassification

    config = check_reward_model(source)
    with naming(source, "reward model"):
        require_safetensors(source)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True, use_safetensors=True
        )
    require_weights(found["missing_keys"], source)
    return model


def new_reward_model(source: str | Path, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A one-output sequence classifier on the body of a causal language model, its head new and zero-mean.

    Raises ModelError when the source holds no such body, or not all of it.
    """
    from transformers import AutoModelForSequenceClassification, set_seed
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    set_seed(seed)
    with naming(source, "model"), suppress_seqcls_warning():
        require_safetensors(source)
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, num_labels=1, dtype=dtype, trust_remote_code=False, output_loading_info=True, use_safetensors=True
        )
    body = f"{model.base_model_prefix}."
    require_weights((name for name in found["missing_keys"] if name.startswith(body)), source)
    return model


def load_critic(source: str | Path, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A value model: a reward model as it is, or a causal language model's body under a new one-output head."""
    if any(name.endswith("ForCausalLM") for name in _architectures(load_config(source), source)):
        return new_reward_model(source, dtype, seed)
    return load_reward_model(source, dtype)


def new_causal_lm(sizes: NewModelConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A Qwen2 model with random float32 weights that fits `tokenizer`."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    set_seed(seed)
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=sizes.hidden_size,
        intermediate_size=sizes.intermediate_size,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=sizes.max_positions,
        rope_parameters={"rope_type": "default", "rope_theta": sizes.rope_theta},
        initializer_range=sizes.initializer_range,
        tie_word_embeddings=sizes.tie_embeddings,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))


def _require_architecture(config: PreTrainedConfig, source: str | Path, ending: str, role: str) -> None:
    found = _architectures(config, source)
    if found and not any(name.endswith(ending) for name in found):
        raise ModelError(f"{source}: not {role}: it holds a {', '.join(found)}")


def _architectures(config: PreTrainedConfig, source: str | Path) -> list[str]:
    found = config.architectures or []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ModelError(f"{source}: no usable model (its architectures are {found!r}, not a list of names)")
    return found
