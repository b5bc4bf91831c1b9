"""Objects of the user's own code, found by name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.errors import ConfigError


def load_callable(name: str, file: str | None, key: str) -> Callable[..., Any]:
    """`module:name`, or with a file the name in it. Raises ConfigError, with `key`, when it cannot be had."""
    module_name, _, attribute = name.rpartition(":")
    if not attribute.isidentifier() or (file is None and not module_name):
        raise ConfigError(f"{key}: '{name}' names nothing; write module:name, or give a file and a name in it")
    module = _from_file(Path(file), key) if file is not None else _by_name(module_name, key)
    found = getattr(module, attribute, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        holds = ", ".join(known) or "none"
        raise ConfigError(f"{key}: {file or module_name} holds no function or class '{attribute}' (it holds: {holds})")
    return found


def _by_name(name: str, key: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        raise ConfigError(f"{key}: module '{name}' cannot be imported: {_said(error)}") from None


def _from_file(path: Path, key: str) -> ModuleType:
    name = f"user_{path.stem}_{hashlib.blake2b(str(path.resolve()).encode(), digest_size=4).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{key}: {path} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # noqa: BLE001 - a module may raise anything while it is imported
        del sys.modules[name]
        raise ConfigError(f"{key}: {path} cannot be imported: {_said(error)}") from None
    return module


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
