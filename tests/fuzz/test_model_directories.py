"""Model directories with one thing wrong in them: loaded, or refused in one sentence by the checks that runs make."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import ModelError
from rlhf.models import loading
from tests.fuzz.damage import JUNK, changed, flipped

DESCRIPTIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
FILES = (*DESCRIPTIONS, "model.safetensors", "chat_template.jinja")


@st.composite
def damages(draw: st.DrawFn, good: Path) -> tuple[str, bytes | None]:
    """A file of a model directory, and what it holds instead; None: it is not there."""
    how = draw(st.sampled_from(("value", "value", "value", "cut", "flip", "junk", "missing")))
    name = draw(st.sampled_from(DESCRIPTIONS if how == "value" else FILES))
    raw = (good / name).read_bytes()
    if how == "value":
        return name, json.dumps(changed(json.loads(raw), draw)).encode()
    if how == "cut":
        return name, raw[: draw(st.integers(0, len(raw) - 1))]
    return name, {"flip": lambda: flipped(raw, draw), "junk": lambda: draw(st.sampled_from(JUNK))}.get(
        how, lambda: None
    )()


def load(directory: Path) -> None:
    """What `actors.preparation` checks, and what the roles then load."""
    import torch

    tokenizer = loading.load_tokenizer(directory)
    loading.require_chat_template(tokenizer, directory)
    config = loading.load_config(directory)
    loading.check_tokenizer(tokenizer, config, directory)
    loading.check_length(config, 8, directory, "max_length")
    loading.load_causal_lm(directory, torch.float32)
    loading.load_critic(directory, torch.float32, 0)


def refusal(directory: Path) -> str | None:
    """The one sentence; None when everything was loaded."""
    try:
        load(directory)
    except ModelError as error:
        assert "\n" not in str(error) and len(str(error)) < 800, error
        return str(error)
    return None


@pytest.mark.slow
def test_any_damage_is_loaded_or_refused_in_one_sentence(tiny_models: Any, tmp_path: Path) -> None:
    ends = {True: 0, False: 0}

    @settings(max_examples=400)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        name, content = data.draw(damages(tiny_models.tied))
        directory = tmp_path / "model"
        shutil.copytree(tiny_models.tied, directory)
        if content is None:
            (directory / name).unlink()
        else:
            (directory / name).write_bytes(content)
        try:
            ends[refusal(directory) is None] += 1
        finally:
            shutil.rmtree(directory)

    one()
    assert min(ends.values()) > 50, ends


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("config.json", loop, "no usable model"),
        ("tokenizer.json", loop, "the tokenizer has no vocabulary; its tokenizer.json is missing, or empty"),
        ("model.safetensors", loop, "no usable causal language model"),
        ("tokenizer.json", os.mkfifo, "tokenizer.json: is neither a file nor a directory; a model is made of files"),
        ("config.json", endless, "config.json: is neither a file nor a directory"),
        ("model.safetensors", Path.mkdir, "no usable causal language model"),
    ],
)
def test_what_is_no_file_is_refused(
    tiny_models: Any, tmp_path: Path, name: str, make: Callable[[Path], None], said: str
) -> None:
    directory = tmp_path / "model"
    shutil.copytree(tiny_models.tied, directory)
    (directory / name).unlink()
    make(directory / name)
    with pytest.raises(ModelError, match=said):
        load(directory)


def test_weights_that_are_not_there_are_not_made_up(tiny_models: Any, tmp_path: Path) -> None:
    """transformers would fill them with random numbers; found by one changed bit in the name of a weight."""
    import torch
    from safetensors.torch import load_file, save_file

    for source, lost, load_one in (
        (tiny_models.tied, "model.layers.1.mlp.up_proj.weight", loading.load_causal_lm),
        (tiny_models.tied, "model.norm.weight", lambda path, dtype: loading.new_reward_model(path, dtype, 0)),
        (tiny_models.reward, "score.weight", loading.load_reward_model),
    ):
        directory = tmp_path / lost
        shutil.copytree(source, directory)
        weights = load_file(directory / "model.safetensors")
        save_file({k: v for k, v in weights.items() if k != lost}, directory / "model.safetensors", {"format": "pt"})
        with pytest.raises(ModelError, match=f"its weights lack {lost}; fetch or export the model again"):
            load_one(directory, torch.float32)
