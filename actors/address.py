"""Whether a Ray head answers at an address. Ray itself tries for two minutes, and then ends the process."""

from __future__ import annotations

import os
import socket

from rlhf.errors import ConfigError, ResourceError

WAIT_S = 10.0
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # and an empty SETTINGS frame
_SETTINGS = 4  # type of the first frame that any HTTP/2 (so any gRPC) server sends


def require_head(address: str) -> None:
    """Raises ResourceError when nothing, or no Ray head, answers at host:port within `WAIT_S`.

    Names that Ray resolves itself ("auto", "local") pass.
    """
    if ":" not in address:
        return
    host, port = _host_and_port(address)
    try:
        with socket.create_connection((host, port), timeout=WAIT_S) as connection:
            if not _speaks_grpc(connection):
                raise _refusal(address, "what answers there is no Ray head; its port is 6379 unless chosen otherwise")
    except OSError as error:
        raise _refusal(address, error.strerror or str(error)) from None


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if "/" in host or not port.isdecimal():
        raise ConfigError(
            f"'{address}' is no address of a Ray cluster; give host:port of its head in cluster.address or RAY_ADDRESS "
            f"(6379 as a rule, not the dashboard's 8265), or submit this command with 'ray job submit'"
        )
    return host.strip("[]"), int(port)


def _speaks_grpc(connection: socket.socket) -> bool:
    if os.environ.get("RAY_USE_TLS", "0") == "1":
        return True
    try:
        connection.sendall(_HTTP2_PREFACE)
        answer = connection.recv(9)
    except OSError:
        return False
    return len(answer) >= 4 and answer[3] == _SETTINGS


def _refusal(address: str, reason: str) -> ResourceError:
    return ResourceError(
        f"no Ray cluster answers at {address} ({reason}); start one with 'ray start --head', or unset cluster.address "
        f"and RAY_ADDRESS to run on this machine alone"
    )
