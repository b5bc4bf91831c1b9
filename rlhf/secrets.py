"""Which environment variables are secrets, by their names, or by a password in an address."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError

_SHORTEST = 12  # characters: shorter values, `disabled` for one, may stand in a config for other reasons
_WORDS = (
    "TOKENS?|KEYS?|SECRETS?|PASSWORDS?|PASSWD|PWD|PASS|PASSPHRASES?|CREDENTIALS?|CREDS|AUTH|COOKIES?|DSN|KUBECONFIG|PAT"
)
_SECRET_PART = re.compile(rf"(^|[_.-])[A-Z0-9]*({_WORDS})([_.-]|$)", re.IGNORECASE)
_PREFIXES = ("AWS_", "AZURE_", "RAY_")  # Ray's hold its token, and what a job was submitted with
_HARMLESS = frozenset({"PWD", "OLDPWD"})
_PASSWORD_IN_ADDRESS = re.compile(r"://[^/@\s]*:[^/@\s]+@")


@dataclass(frozen=True)
class TokenPlace:
    """Where a bearer token lies: in an environment variable, in a file as Kubernetes mounts its secrets, or nowhere.
    `keys` are what the user calls the two."""

    variable: str | None
    file: Path | None
    keys: tuple[str, str]

    def read(self) -> str | None:
        """None where there is to be none. Raises ConfigError where one is named and is not there, or is no token."""
        if self.variable is not None:
            what, text = f"{self.keys[0]}: the environment variable {self.variable}", os.environ.get(self.variable, "")
        elif self.file is not None:
            what, text = f"{self.keys[1]}: {self.file}", self._content(self.file)
        else:
            return None
        token = text.strip()
        if not token:
            raise ConfigError(f"{what} is not set or empty")
        if not (token.isascii() and token.isprintable()):
            raise ConfigError(f"{what} holds no token: it must be printable ASCII")
        return token

    def _content(self, file: Path) -> str:
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"{self.keys[1]}: {file} cannot be read ({error.strerror})") from None


def named_like_a_secret(name: str) -> bool:
    """Whether a part of the name is TOKEN, KEY, SECRET, PASSWORD or their like, or ends so (APIKEY).

    >>> [named_like_a_secret(name) for name in ("HF_TOKEN", "api_key", "TOKENIZERS_PARALLELISM", "PWD", "HOME")]
    [True, True, False, False, False]
    """
    return name not in _HARMLESS and _SECRET_PART.search(name) is not None


def is_secret(name: str, value: str) -> bool:
    """Whether a variable is one, by its name or because its value is an address with a password."""
    hidden = named_like_a_secret(name) or name.upper().startswith(_PREFIXES)
    return hidden or _PASSWORD_IN_ADDRESS.search(value) is not None


def without_secrets(
    variables: Mapping[str, str], hidden: Collection[str] = (), passed: Collection[str] = ()
) -> dict[str, str]:
    """The variables that a guest may see: no secret, none of `hidden`, but every one of `passed` that is set."""
    return {
        name: value for name, value in variables.items()
        if name in passed or not (name in hidden or is_secret(name, value))
    }


def require_no_secrets(content: Any, variables: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError, with the key, for a config that holds the value of a variable that is named like a secret: it
    would be written to the run's directory. `content` is made of mappings, sequences and plain values."""
    values = _values(variables)
    for key, text in _texts(content):
        for name, value in values.items():
            if value in text:
                raise ConfigError(
                    f"{key}: holds the value of the environment variable {name}, and configs are written to the run's "
                    f"directory; name the variable instead (token_env, pass_env)"
                )


def redacted(text: str, variables: Mapping[str, str] = os.environ) -> str:
    """A text with the names of such variables where their values stood."""
    for name, value in _values(variables).items():
        text = text.replace(value, f"<{name}>")
    return text


def _values(variables: Mapping[str, str]) -> dict[str, str]:
    """Values of what is named like a secret; a path to one is none."""
    return {
        name: value for name, value in variables.items()
        if named_like_a_secret(name) and len(value) >= _SHORTEST and not os.path.exists(value)
    }


def _texts(content: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of nested content under its dotted key; the names of keys count, too."""
    if isinstance(content, str):
        yield key, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield key, str(name)
            yield from _texts(value, f"{key}.{name}" if key else str(name))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from _texts(value, f"{key}.{index}")
