"""The environment that a config describes, one per episode."""

from __future__ import annotations

from collections.abc import Callable

from rlhf.environments.calculator import CalculatorEpisode
from rlhf.environments.config import Calculator, PythonEnvironment
from rlhf.environments.environment import Environment
from rlhf.errors import ConfigError
from rlhf.loading import load_callable


def environment_factory(config: Calculator | PythonEnvironment) -> Callable[[], Environment]:
    """Raises ConfigError when the config names what is not there."""
    if isinstance(config, Calculator):
        return CalculatorEpisode
    make = load_callable(config.factory, config.file, "environment.factory")

    def environment() -> Environment:
        try:
            return make(**config.options)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            said = f"{type(error).__name__}: {error}"
            raise ConfigError(f"environment.factory: {config.factory} with environment.options raised {said}") from None

    return environment
