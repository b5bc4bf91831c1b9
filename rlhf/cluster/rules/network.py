"""What Kubernetes refuses of the rules of a network policy."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.choice import PROTOCOLS, choice
from rlhf.cluster.rules.placement import expression_findings

Network = IPv4Network | IPv6Network


def policy_findings(spec: Cursor) -> Iterator[Finding]:
    """Every rule of a NetworkPolicy's spec."""
    for kind in spec["policyTypes"]:
        yield from choice(kind, ("Ingress", "Egress"))
    yield from expression_findings(spec["podSelector"]["matchExpressions"])
    yield from rule_findings(spec["ingress"], spec["egress"])


def rule_findings(ingress: Cursor, egress: Cursor) -> Iterator[Finding]:
    """Rules of what may come in and what may go out."""
    for rules, peers in ((ingress, "from"), (egress, "to")):
        for rule in rules:
            for peer in rule[peers]:
                yield from _peer(peer)
            for port in rule["ports"]:
                yield from choice(port["protocol"], PROTOCOLS)


def _peer(peer: Cursor) -> Iterator[Finding]:
    block = peer["ipBlock"]
    for name in ("podSelector", "namespaceSelector"):
        yield from expression_findings(peer[name]["matchExpressions"])
        if block.given and peer[name].given:
            yield peer[name].fault("a peer with ipBlock has no selector; make two peers of it")
    if block.given:
        yield from _block(block)


def _block(block: Cursor) -> Iterator[Finding]:
    whole = _network(block["cidr"].text)
    if whole is None:
        yield _no_network(block["cidr"])
    for part in block["except"]:
        inner = _network(part.text)
        if inner is None:
            yield _no_network(part)
        elif whole is not None and not _is_part(inner, whole):
            yield part.fault(f"'{part.text}' is no part of {block['cidr'].text}; correct it, or remove it")


def _no_network(given: Cursor) -> Finding:
    return given.fault(f"'{given.value}' is no network; write address/prefix, as in 192.168.0.0/16")


def _network(text: str) -> Network | None:
    """A network that says how long its prefix is; None for what is none."""
    try:
        return ip_network(text, strict=False) if text.partition("/")[2].isdecimal() else None
    except ValueError:
        return None


def _is_part(inner: Network, whole: Network) -> bool:
    if isinstance(inner, IPv4Network) and isinstance(whole, IPv4Network):
        return inner != whole and inner.subnet_of(whole)
    return isinstance(inner, IPv6Network) and isinstance(whole, IPv6Network) and inner.subnet_of(whole)
