"""Which hosts a reward service may have, and which addresses none may.

Link-local addresses are those of a cloud's metadata service, which hands out the machine's credentials; they and the
other well-known ones of such services are refused whatever is allowed.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
VARIABLE = "RLHF_REWARD_HOSTS"  # the operator's list, comma-separated; the config's can only narrow it
_PORTS = {"http": 80, "https": 443}
_METADATA = frozenset(map(ipaddress.ip_address, (
    "100.100.100.200",  # Alibaba Cloud
    "168.63.129.16",  # Azure
    "192.0.0.192",  # Oracle Cloud
    "fd00:ec2::254",  # Amazon EC2
    "fd20:ce::254",  # Google Cloud
)))
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


@dataclass(frozen=True)
class AllowedHost:
    """An entry of a list: a host, or with `*.` everything below a domain; scheme and port where they are given."""

    host: str
    scheme: str | None
    port: int | None

    @classmethod
    def parse(cls, text: str) -> AllowedHost:
        """Raises ValueError for what is no entry."""
        scheme, separator, rest = text.strip().rpartition("://")
        try:
            parts = urlsplit(f"//{rest}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host = None
        wrong_scheme = bool(separator) and scheme not in _PORTS
        if not host or wrong_scheme or parts.path or parts.query or parts.username or "*" in host.removeprefix("*."):
            raise ValueError(f"'{text}' is no host; write HOST, HOST:PORT, *.DOMAIN, or https:// before one")
        return cls(_plain(host), scheme or None, port)

    def covers(self, url: str) -> bool:
        """Whether it allows the scheme, host and port of a URL."""
        parts = urlsplit(url)
        host, port = _plain(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
        below = self.host.startswith("*.") and host.endswith(self.host[1:])
        return (below or host == self.host) and self.scheme in (None, parts.scheme) and self.port in (None, port)


def is_allowed(url: str, entries: Sequence[str] | None) -> bool:
    """Whether one of the entries covers a URL; None allows all."""
    return entries is None or any(AllowedHost.parse(entry).covers(url) for entry in entries)


def operators_list(text: str | None) -> list[str] | None:
    """The entries of RLHF_REWARD_HOSTS; None where it is not set."""
    return None if text is None else [entry for entry in text.split(",") if entry.strip()]


def forbidden(address: str, host: str, named: bool) -> str | None:
    """Why a service must not be asked at an address that `host` stands for; None: it may.

    `named`: an allow-list names this very host. Else a name must not lead to this machine itself, where it is not
    `localhost`: who owns a name would choose what is asked here.
    """
    where = _innermost(ipaddress.ip_address(address.partition("%")[0]))
    if where.is_link_local or where in _METADATA:
        return f"{address} is an address of a metadata service or link-local"
    if where.is_multicast or where.is_unspecified or str(where) == "255.255.255.255":
        return f"{address} is an address of no single host"
    if where.is_loopback and not named and not _means_loopback(host):
        return f"{address} is this machine, and the name does not say so"
    return None


def _innermost(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return inner or address
    return address


def _means_loopback(host: str) -> bool:
    try:
        return _plain(host) == "localhost" or _innermost(ipaddress.ip_address(host)).is_loopback
    except ValueError:
        return False


def _plain(host: str) -> str:
    return host.lower().rstrip(".")
