"""Connects to the Ray cluster of a run, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.address import require_head
from rlhf.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    from rlhf.stage import ClusterConfig

GIB = 1024**3


@contextmanager
def ray_session(config: ClusterConfig) -> Iterator[None]:
    """Ray is initialised inside the block, and a UserError of a Ray process leaves it as itself.

    A cluster that was started for the block ends with it. Raises ResourceError or ConfigError when there is no
    cluster to be had.
    """
    address = config.address or os.environ.get("RAY_ADDRESS")
    _prepare_environment(starts=address is None)
    if config.debug:
        os.environ.setdefault("RAY_DEBUG", "legacy")  # a breakpoint waits at a port, for any terminal
    if address is not None:
        require_head(address)
    import ray

    from actors.errors import users_errors_unwrapped

    if ray.is_initialized():
        with users_errors_unwrapped():
            yield
        return
    _initialise(config, address)
    try:
        with users_errors_unwrapped():
            yield
    finally:
        ray.shutdown()


def _initialise(config: ClusterConfig, address: str | None) -> None:
    import ray

    # Engines' banners stay in the logs of Ray's session, where the dashboard finds them; errors are raised here.
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": config.debug}
    try:
        if address is not None:
            ray.init(address=address, **quiet)
            return
        ray.init(
            address="local", num_cpus=config.cpus, include_dashboard=config.dashboard, dashboard_host="127.0.0.1",
            object_store_memory=int(config.object_store_gib * GIB), **quiet,
        )
    except (ConnectionError, TimeoutError, ray.exceptions.RayError) as error:
        raise ResourceError(f"no connection to Ray at {address or 'this machine'}: {_first_line(error)}") from None
    except ValueError as error:
        raise ConfigError(f"cluster: Ray refuses these settings: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _prepare_environment(starts: bool) -> None:
    """What Ray's processes inherit: this project's path, and for a cluster of our own a token of its own."""
    root = str(Path(__file__).resolve().parent.parent)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if root not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([root, *filter(None, paths)])
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # a spinning thread takes the core of another role
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if starts and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def require_absolute_output(key: str, output: Path) -> None:
    """Inside a submitted job the working directory is a temporary copy: what is written there is lost."""
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not output.is_absolute():
        raise ConfigError(
            f"{key}: {output} is relative, and this job's working directory is a temporary copy that is deleted; "
            f"give an absolute path on storage that every node shares"
        )
