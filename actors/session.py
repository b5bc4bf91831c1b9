"""Connects to the Ray cluster of a run, or starts one on this machine."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.address import require_head
from rlhf.errors import ConfigError, ResourceError
from rlhf.termination import ends_process

if TYPE_CHECKING:
    from rlhf.stage import ClusterConfig

GIB = 1024**3
_STARTS = 4
_SLOW_START = "timed out during startup"


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
    ends_process()
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
        started = patiently(lambda: ray.init(
            address="local", num_cpus=config.cpus, include_dashboard=config.dashboard, dashboard_host="127.0.0.1",
            object_store_memory=int(config.object_store_gib * GIB), **quiet,
        ))
        if config.dashboard:
            _announce(started.dashboard_url, Path(started.address_info["session_dir"]))
    except (ConnectionError, TimeoutError, ray.exceptions.RayError) as error:
        raise ResourceError(f"no connection to Ray at {address or 'this machine'}: {_first_line(error)}") from None
    except ValueError as error:
        raise ConfigError(f"cluster: Ray refuses these settings: {_first_line(error)}") from None


def patiently(start: Callable[[], Any]) -> Any:
    """What `start` returns. Ray gives its node 30 s to start, whatever else the machine does, and ends with an
    Exception of no other type: then it is started again. Raises TimeoutError after the last time."""
    for _ in range(_STARTS):
        try:
            return start()
        except Exception as error:
            if _SLOW_START not in str(error):
                raise
    raise TimeoutError(f"its node did not start within 30 s, {_STARTS} times: let the machine do less beside it")


def _announce(url: str, session: Path) -> None:
    """Say where the dashboard is. The token that it asks for goes into a file for this user alone, and into no log."""
    token = os.environ.get("RAY_AUTH_TOKEN")
    if os.environ.get("RAY_AUTH_MODE") != "token" or token is None:
        print(f"dashboard  http://{url}", flush=True)
        return
    path = session / "dashboard_token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
        stream.write(token)
    print(f"dashboard  http://{url}  (it asks for a token: cat {path})", flush=True)


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
    # Each role's process has an environment of its own: what Ray starts ahead of any work would never get any.
    os.environ.setdefault("RAY_prestart_worker_first_driver", "0")
    if starts:
        # Ray's name for "no other machine will join": its node is 127.0.0.1, and all its servers listen there alone.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
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
