"""What the source must never hold (SECURITY.md), read from its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

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
    text = path.read_text()
    assert "INSECURE_SERIALIZATION" not in text and "0.0.0.0" not in text


def test_models_and_tokenizers_are_loaded_without_their_code() -> None:
    loading = [call for path in SOURCES for call in calls(path) if name_of(call).endswith(".from_pretrained")]
    assert len(loading) >= 5
    assert [ast.unparse(call) for call in loading if keyword(call, "trust_remote_code") != "False"] == []


def test_the_yaml_loader_makes_plain_values_only() -> None:
    import yaml

    from rlhf.config import _UniqueKeyLoader

    assert issubclass(_UniqueKeyLoader, yaml.SafeLoader)
