"""HTTP connections to addresses that were looked at: a name is resolved once, and what was checked is connected to."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Sequence

import httpx

from rlhf.rewards.hosts import AllowedHost, forbidden


class Forbidden(httpx.TransportError):
    """The host stands for an address that no reward service may have."""


class CheckedTransport(httpx.AsyncHTTPTransport):
    """Refuses a host when any of its addresses is forbidden, and else connects to one of them, by number.

    The name stays in the Host header, and in what a TLS certificate must be for. No proxy is used: it would resolve
    the name for itself.
    """

    def __init__(self, hosts: Sequence[Sequence[str]]) -> None:
        super().__init__(trust_env=True)  # only SSL_CERT_FILE and SSL_CERT_DIR: proxies are the client's part
        self.entries = [AllowedHost.parse(entry) for entries in hosts for entry in entries]

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        addresses = await _addresses(host, request.url.port or {"http": 80, "https": 443}[request.url.scheme])
        named = any(entry.host == host.lower().rstrip(".") for entry in self.entries)
        for address in addresses:
            reason = forbidden(address, host, named)
            if reason is not None:
                raise Forbidden(f"{host} is not asked: {reason}")
        error: httpx.ConnectError | None = None
        for address in addresses:
            try:
                return await super().handle_async_request(_at(request, host, address))
            except httpx.ConnectError as failed:
                error = failed
        raise error or httpx.ConnectError(f"{host} has no address")


def _at(request: httpx.Request, host: str, address: str) -> httpx.Request:
    """The same request, to an address instead of a name."""
    return httpx.Request(
        request.method, request.url.copy_with(host=address), headers=request.headers, stream=request.stream,
        extensions={**request.extensions, "sni_hostname": host},
    )


async def _addresses(host: str, port: int) -> list[str]:
    try:
        return [str(ipaddress.ip_address(host))]
    except ValueError:
        pass
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise httpx.ConnectError(f"{host} is not known: {error}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
