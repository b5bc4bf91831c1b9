"""What the source must never hold (SECURITY.md), read from its syntax trees."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf import NO_TELEMETRY
from rlhf.sound import SoundDirectory

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*ROOT.glob("rlhf/**/*.py"), *ROOT.glob("actors/**/*.py"), *ROOT.glob("cluster/**/*.py")])


def calls(path: Path) -> Iterator[ast.Call]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))


def name_of(call: ast.Call) -> str:
    return ast.unparse(call.func)


def keyword(call: ast.Call, name: str) -> str | None:
    return next((ast.unparse(each.value) for each in call.keywords if each.arg == name), None)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_runs_what_it_should_not(path: Path) -> None:
    for call in calls(path):
        name, place = name_of(call), f"{path}:{call.lineno}"
        assert keyword(call, "trust_remote_code") in (None, "False"), place
        assert name not in ("eval", "exec", "pickle.load", "pickle.loads", "os.system", "marshal.loads"), place
        assert keyword(call, "shell") in (None, "False"), place
        assert keyword(call, "weights_only") in (None, "True"), place
        assert name != "torch.load" or keyword(call, "weights_only") == "True", place
        assert name not in ("yaml.load", "yaml.unsafe_load") or keyword(call, "Loader") == "_UniqueKeyLoader", place
        assert keyword(call, "verify") != "False" and keyword(call, "follow_redirects") in (None, "False"), place
        assert not name.endswith(("extractall", "unpack_archive", "read_pickle")), place
        assert keyword(call, "allow_pickle") in (None, "False"), place
    imported = {each.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import)
                for each in node.names}
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "tarfile", "zipfile"}, path
    text = path.read_text()
    assert "INSECURE_SERIALIZATION" not in text and "0.0.0.0" not in text


def test_models_and_tokenizers_are_loaded_without_their_code() -> None:
    loading = [call for path in SOURCES for call in calls(path) if name_of(call).endswith(".from_pretrained")]
    assert len(loading) >= 5
    assert [ast.unparse(call) for call in loading if keyword(call, "trust_remote_code") != "False"] == []


def test_weights_come_from_safetensors_alone() -> None:
    """Where a model is loaded; a tokenizer, or a config, has no weights."""
    models = [call for path in SOURCES for call in calls(path) if name_of(call).startswith("AutoModel")]
    assert len(models) >= 3
    assert [ast.unparse(call) for call in models if keyword(call, "use_safetensors") != "True"] == []
    engines = [call for path in SOURCES for call in calls(path) if name_of(call) == "LLM"]
    assert [keyword(call, "load_format") for call in engines] == ["'safetensors'"]


# What unpickles, by the name that a module would have to write: of torch, of DeepSpeed, of a Trainer.
UNPICKLING = {
    "torch.load", "load_checkpoint", "ds_to_universal", "get_fp32_state_dict_from_zero_checkpoint",
    "load_state_dict_from_zero_checkpoint", "convert_zero_checkpoint_to_fp32_state_dict", "DeepSpeedCheckpoint",
    "resume_from_checkpoint",
}
PICKLES = "rlhf/training/pickles.py"
VERIFY = {"rlhf/training/seal.py", "rlhf/training/shares.py"}


def words(tree: ast.AST) -> Iterator[str]:
    """Every name that is imported, used, given as a keyword, or, for getattr, written as a string."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=word) | ast.keyword(arg=str(word)) | ast.Constant(value=str(word)):
                yield word
            case ast.Attribute(attr=word):
                yield from (word, ast.unparse(node))
            case ast.alias(name=word):
                yield from word.split(".")
            case ast.ImportFrom(module=str(module)):
                yield from module.split(".")
                yield from (f"{module}.{alias.name}" for alias in node.names)


def unpickling(source: str) -> set[str]:
    return UNPICKLING & set(words(ast.parse(source)))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)", "read = torch.load", "from torch import load", "engine.load_checkpoint(path)",
        "getattr(engine, 'load_checkpoint')(path)", "trainer.train(resume_from_checkpoint=path)",
        "import deepspeed.checkpoint.ds_to_universal", "from deepspeed.checkpoint.ds_to_universal import main",
        "from deepspeed.checkpoint import ds_to_universal as convert",
    ],
)
def test_what_unpickles_is_seen(source: str) -> None:
    assert unpickling(source)


def test_pickles_are_read_in_one_place() -> None:
    found = {str(path.relative_to(ROOT)): unpickling(path.read_text()) for path in SOURCES}
    assert {place: names for place, names in found.items() if names} == {
        PICKLES: {"torch.load", "load_checkpoint", "ds_to_universal", "get_fp32_state_dict_from_zero_checkpoint",
                  "resume_from_checkpoint"},
    }


def test_what_reads_pickles_takes_a_verified_directory_alone() -> None:
    functions = [node for node in ast.parse((ROOT / PICKLES).read_text()).body if isinstance(node, ast.FunctionDef)]
    public = [each for each in functions if not each.name.startswith("_")]
    assert len(public) == 5
    for each in public:
        annotations = {argument.arg: ast.unparse(argument.annotation) for argument in each.args.args}
        assert annotations["source"] == "SoundDirectory", each.name


def test_a_directory_is_called_sound_by_the_verifications_alone() -> None:
    """And what lies in it, and what was converted from it."""
    makers = {str(path.relative_to(ROOT)) for path in SOURCES for call in calls(path)
              if name_of(call).endswith("SoundDirectory")}
    assert makers == VERIFY | {PICKLES, "rlhf/sound.py"}
    for place in VERIFY:
        made = [call for call in calls(ROOT / place) if name_of(call) == "SoundDirectory"]
        assert [ast.unparse(call) for call in made] == ["SoundDirectory(directory)"], place
    with pytest.raises(ValueError, match="not the plain name"):
        SoundDirectory(Path("run")) / "../elsewhere"


def test_every_process_tells_libraries_to_report_nothing() -> None:
    """By importing this project, before anything else is; who wants otherwise says so in the environment."""
    def told(program: str, variables: dict[str, str]) -> str:
        return subprocess.check_output([sys.executable, "-c", program], env=variables, text=True).strip()

    program = "import os, rlhf; print([os.environ[name] == value for name, value in rlhf.NO_TELEMETRY.items()])"
    plain = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY}
    assert told(program, plain) == str([True] * 7)
    assert told(program, {**plain, "DO_NOT_TRACK": "0"}) == str([True, False, *[True] * 5])
    hub = "import rlhf, huggingface_hub.constants as hub; print(hub.HF_HUB_DISABLE_TELEMETRY)"
    assert told(hub, plain) == "True"


def test_the_yaml_loader_makes_plain_values_only() -> None:
    import yaml

    from rlhf.config import _UniqueKeyLoader

    assert issubclass(_UniqueKeyLoader, yaml.SafeLoader)
