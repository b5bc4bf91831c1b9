"""Ray's surroundings: ports, tokens, proxies, and the cluster or hub that this machine is to reach."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from rlhf.doctor.finding import Finding, fail, ok, warn

PORTS = {6379: "Ray's head", 8265: "dashboard and jobs", 10001: "Ray client"}
_OPTIONS = {6379: "--port", 8265: "--dashboard-port", 10001: "--ray-client-server-port"}
_RAY = ("gcs_server", "raylet", "ray::", "/ray/", "ray start")
_TOKEN_FILE = ".ray/auth_token"
_WAIT_S = 5.0


def ports() -> list[Finding]:
    """The ports on which a head listens by default: free, or a Ray's."""
    return [judge_port(port, _listens(port), _holder(port)) for port in PORTS]


def judge_port(port: int, taken: bool, holder: str) -> Finding:
    """What to say of a port; `holder` is the command line of who listens, empty where it is not told."""
    subject = f"port {port}"
    if not taken:
        return ok(subject, f"free, for {PORTS[port]}")
    if any(word in holder for word in _RAY):
        return ok(subject, f"a Ray runs there ({PORTS[port]})")
    return warn(
        subject, f"taken by {holder[:60] or 'another process'}, and by default it is for {PORTS[port]}",
        f"'ray start --head {_OPTIONS[port]}=…' takes another; clusters that rlhf starts find free ones by themselves",
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _holder(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return " ".join(psutil.Process(connection.pid).cmdline())
    except (psutil.Error, OSError):
        return ""
    return ""


def token(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Finding:
    """Who may run code on a cluster: whoever has the token, or everybody who reaches its ports."""
    mode = environment.get("RAY_AUTH_MODE")
    file = Path(environment.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / _TOKEN_FILE)
    generate = "make one with 'ray get-auth-token --generate', and give all nodes and clients the same"
    if mode is None:
        return _mode_unset(file)
    if mode == "disabled":
        return warn("token", "RAY_AUTH_MODE=disabled: whoever reaches a cluster's ports can run code on it",
                    "set RAY_AUTH_MODE=token on the head, every node and the client")
    if mode != "token":
        return fail("token", f"RAY_AUTH_MODE={mode} is no mode of Ray's", "set it to token")
    if environment.get("RAY_AUTH_TOKEN"):
        return ok("token", "RAY_AUTH_MODE=token, with RAY_AUTH_TOKEN")
    if not file.is_file():
        return fail("token", f"RAY_AUTH_MODE=token, but there is no RAY_AUTH_TOKEN and no {file}", generate)
    if file.stat().st_mode & 0o077:
        return warn("token", f"others than its owner may read {file}", f"'chmod 600 {file}'")
    return ok("token", f"RAY_AUTH_MODE=token, with {file}")


def _mode_unset(file: Path) -> Finding:
    if file.is_file():
        return warn(
            "token", f"RAY_AUTH_MODE is not set, and there is {file}: 'ray start --head' would ask for a token that "
            f"'ray start --address' does not send", "set RAY_AUTH_MODE=token on the head, every node and the client",
        )
    return ok("token", "RAY_AUTH_MODE is not set: a cluster that rlhf starts gets a token of its own")


def proxies(environment: Mapping[str, str] = os.environ) -> Finding:
    """A proxy between Ray's processes breaks them: 'ray job submit', the dashboard and vLLM's servers speak HTTP."""
    named = [name for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
             if environment.get(name) or environment.get(name.upper())]
    if not named:
        return ok("proxies", "none")
    left_out = (environment.get("no_proxy") or environment.get("NO_PROXY") or "").replace(" ", "").split(",")
    missing = [host for host in _hosts_of_ray(environment) if host not in left_out and "*" not in left_out]
    if not missing:
        return ok("proxies", f"{', '.join(named)}, not for Ray's own addresses")
    return warn("proxies", f"{', '.join(named)} also for {', '.join(missing)}",
                f"export no_proxy={','.join([*filter(None, left_out), *missing])}")


def _hosts_of_ray(environment: Mapping[str, str]) -> list[str]:
    host = environment.get("RAY_ADDRESS", "").removeprefix("ray://").removeprefix("http://").rpartition(":")[0]
    return list(dict.fromkeys(["localhost", "127.0.0.1", *filter(None, [host])]))


def address(environment: Mapping[str, str] = os.environ) -> Finding:
    """The cluster that RAY_ADDRESS names answers."""
    named = environment.get("RAY_ADDRESS", "")
    host, _, port = named.partition("://")[2].rpartition(":") if "://" in named else named.rpartition(":")
    if not named or not port.isdecimal():
        return ok("RAY_ADDRESS", named or "not set: rlhf starts a cluster on this machine")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=_WAIT_S):
            return ok("RAY_ADDRESS", f"{named} answers")
    except OSError as error:
        return fail("RAY_ADDRESS", f"nothing answers at {named} ({error.strerror or error})",
                    "start that cluster with 'ray start --head', or unset RAY_ADDRESS")


def hub(environment: Mapping[str, str] = os.environ) -> Sequence[Finding]:
    """Models by hub name can be fetched."""
    import httpx

    url = environment.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        answer = httpx.head(url, timeout=_WAIT_S)
    except httpx.HTTPError as error:
        return [warn("hub", f"{url} does not answer ({type(error).__name__})",
                     "name models by directories, set HF_ENDPOINT to a mirror, or let this machine reach it")]
    return [ok("hub", f"{url} answers ({answer.status_code})")]
