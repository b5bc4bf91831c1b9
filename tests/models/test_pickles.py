"""What comes with a model is data: its code is not run, and its pickles are not read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from rlhf.errors import ModelError
from rlhf.models import loading
from rlhf.models.pickles import ADAPTER, INDEX, require_safetensors
from rlhf.models.weights import read_weights
from rlhf.ppo.config import LoraConfig
from rlhf.sampling.vllm_engine import EngineOptions, VllmEngine
from rlhf.training.lora import save_adapters

LOADERS = [loading.load_causal_lm, lambda at, dtype: loading.new_reward_model(at, dtype, 0)]


class Trap:
    """A pickle that makes a directory when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def model(tiny_models, tmp_path: Path) -> Path:
    """A policy of our own to change."""
    return Path(shutil.copytree(tiny_models.tied, tmp_path / "model"))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "weights.pth"])
def test_pickled_weights_are_refused_unread(model: Path, tmp_path: Path, load: Callable, name: str) -> None:
    trap = tmp_path / "ran"
    (model / "model.safetensors").unlink()
    torch.save({"x": Trap(trap)}, model / name)
    with pytest.raises(ModelError, match=rf"model: its weights are pickled \({name}\), and a pickle can run code"):
        load(model, torch.float32)
    assert not trap.exists()
    torch.load(model / name, weights_only=False)
    assert trap.exists()  # it would have


def test_engines_refuse_them_too(model: Path, tmp_path: Path) -> None:
    (model / "model.safetensors").unlink()
    torch.save({"x": Trap(tmp_path / "ran")}, model / "pytorch_model.bin")
    with pytest.raises(ModelError, match="its weights are pickled"):
        VllmEngine(EngineOptions(str(model), 64))
    with pytest.raises(ModelError, match="holds no safetensors files"):
        read_weights(model)
    assert not (tmp_path / "ran").exists()


def test_pickles_beside_safetensors_do_no_harm(model: Path, tmp_path: Path) -> None:
    torch.save({"x": Trap(tmp_path / "ran")}, model / "pytorch_model.bin")
    torch.save({"x": Trap(tmp_path / "ran")}, model / "training_args.bin")
    loading.load_causal_lm(model, torch.float32)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize("name", ["shard.bin", "../shard.safetensors", "/tmp/shard.safetensors", "a/b.safetensors", ""])
def test_an_index_names_files_beside_itself_alone(model: Path, tmp_path: Path, load: Callable, name: str) -> None:
    (model / "model.safetensors").rename(model / "other.safetensors")
    torch.save({"x": Trap(tmp_path / "ran")}, model / "shard.bin")
    names = {"model.norm.weight": name, "lm_head.weight": "other.safetensors"}
    (model / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(ModelError, match=r"index\.json names '.*', which is no safetensors file beside it"):
        load(model, torch.float32)
    assert not (tmp_path / "ran").exists()


def put_adapter(model: Path, directory: Path, pickled: bool = False) -> None:
    """What peft saves of an adapter that would change the model."""
    from safetensors.torch import load_file

    config, layer = LoraConfig(rank=2, layers=("q_proj",)), "model.layers.0.self_attn.q_proj"
    width = json.loads((model / "config.json").read_text())["hidden_size"]
    weights = {
        f"{layer}.lora_A.default.weight": torch.ones(2, width), f"{layer}.lora_B.default.weight": torch.ones(width, 2),
    }
    save_adapters(weights, config, "elsewhere", directory)
    if pickled:
        file = directory / "adapter_model.safetensors"
        torch.save(load_file(file), directory / "adapter_model.bin")
        file.unlink()


@pytest.mark.parametrize("load", [*LOADERS, lambda at, dtype: loading.load_config(at)])
@pytest.mark.parametrize("pickled", [False, True])
def test_an_adapter_beside_the_weights_is_refused(model: Path, load: Callable, pickled: bool) -> None:
    """transformers would add it without a word, and an engine would not."""
    put_adapter(model, model, pickled)
    with pytest.raises(ModelError, match=rf"model: holds an adapter \({ADAPTER}\), which .*; merge it first"):
        load(model, torch.float32)
    with pytest.raises(ModelError, match=r"merge it first"):
        VllmEngine(EngineOptions(str(model), 64))


def test_an_adapter_alone_is_no_model(model: Path) -> None:
    put_adapter(model, model.parent / "alone")
    with pytest.raises(ModelError, match=r"alone: holds an adapter .*; merge it first"):
        loading.load_causal_lm(model.parent / "alone", torch.float32)


@pytest.mark.parametrize("load", LOADERS)
def test_an_adapter_in_a_directory_of_its_own_does_no_harm(model: Path, tiny_models, load: Callable) -> None:
    """As this project publishes them."""
    put_adapter(model, model / "adapter")
    found, wanted = load(model, torch.float32).state_dict(), load(tiny_models.tied, torch.float32).state_dict()
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": ["a.bin"]}])
def test_an_index_that_is_none(model: Path, content: object) -> None:
    (model / INDEX).write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"index\.json is no index of weights"):
        require_safetensors(model)


def test_code_that_comes_with_a_model_is_not_run(model: Path, tmp_path: Path) -> None:
    """A config of an own kind, and a config of a known kind that asks for other code."""
    (model / "modeling_mine.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'ran')!r})\nclass Mine: pass\n")
    path = model / "config.json"
    plain = json.loads(path.read_text())
    code = {"AutoConfig": "modeling_mine.Mine", "AutoModelForCausalLM": "modeling_mine.Mine"}
    path.write_text(json.dumps({**plain, "auto_map": code}))
    loading.load_causal_lm(model, torch.float32)  # a Qwen2 is made by transformers' own code
    path.write_text(json.dumps({**plain, "auto_map": code, "model_type": "mine"}))
    with pytest.raises(ModelError, match="no usable model"):
        loading.load_causal_lm(model, torch.float32)
    tokenizer = model / "tokenizer_config.json"
    content = json.loads(tokenizer.read_text())
    content |= {"auto_map": {"AutoTokenizer": ["modeling_mine.Mine", None]}, "tokenizer_class": "Mine"}
    tokenizer.write_text(json.dumps(content))
    with suppress(ModelError):  # refused, or read without that code: both are well
        loading.load_tokenizer(model)
    assert not (tmp_path / "ran").exists()
