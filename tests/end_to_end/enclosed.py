"""Runs a command in a network of its own, in which nothing leads out, and watches what it tries to send there.

    python -m tests.end_to_end.enclosed RESULT.json COMMAND…

The network has the loopback device alone, with 127.0.0.1 and OWN. Its default route (IPv4; IPv6 has none) leads to that
same device, so that a packet to anywhere else is made, seen and dropped. RESULT.json holds the exit code, such packets,
those of a control that was sent on purpose, the sockets that listened, and the command lines that were seen meanwhile.
"""

from __future__ import annotations

import ctypes
import ipaddress
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fcntl import ioctl
from pathlib import Path
from typing import Any

from tests.limits import wait_until

OWN = "10.77.0.1"
CONTROL = ("192.0.2.1", "198.51.100.7")
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_SET_FLAGS, _SET_ADDRESS, _SET_MASK, _ADD_ROUTE = 0x8914, 0x8916, 0x891C, 0x890B
_ALL_PROTOCOLS, _ATTACH_FILTER = 3, 26


@dataclass
class Seen:
    """What was observed of a command."""

    code: int = -1
    control: list[str] = field(default_factory=list)
    packets: list[str] = field(default_factory=list)
    listening: dict[str, str] = field(default_factory=dict)
    command_lines: list[str] = field(default_factory=list)


def enter() -> None:
    """A new network for this process. Without root it comes with a new user namespace. Raises OSError."""
    libc, user, group = ctypes.CDLL(None, use_errno=True), os.getuid(), os.getgid()
    if libc.unshare(_NEW_NET) == 0:
        return
    if libc.unshare(_NEW_USER | _NEW_NET) != 0:
        raise OSError(ctypes.get_errno(), "no network namespace can be made")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


class Address(ctypes.Structure):
    """struct sockaddr, of IPv4."""

    _fields_ = (
        ("family", ctypes.c_ushort), ("port", ctypes.c_ushort), ("ip", ctypes.c_char * 4), ("zero", ctypes.c_char * 8),
    )

    @classmethod
    def of(cls, text: str) -> Address:
        address = cls(socket.AF_INET, 0)
        ctypes.memmove(ctypes.addressof(address) + cls.ip.offset, socket.inet_aton(text), 4)
        return address


class Route(ctypes.Structure):
    """struct rtentry."""

    _fields_ = (
        ("pad1", ctypes.c_ulong), ("target", Address), ("gateway", Address), ("mask", Address),
        ("flags", ctypes.c_ushort), ("pad2", ctypes.c_short), ("pad3", ctypes.c_ulong), ("pad4", ctypes.c_void_p),
        ("metric", ctypes.c_short), ("device", ctypes.c_char_p), ("mtu", ctypes.c_ulong), ("window", ctypes.c_ulong),
        ("irtt", ctypes.c_ushort),
    )


def lead_nowhere() -> None:
    """Bring the loopback device up, give it OWN, and let the default route end there."""
    anywhere = Address.of("0.0.0.0")
    route = Route(0, anywhere, anywhere, anywhere, flags=0x1, device=b"lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        ioctl(control, _SET_FLAGS, struct.pack("16sH22x", b"lo", 0x1 | 0x40))  # up, running
        ioctl(control, _SET_ADDRESS, struct.pack("16s16s8x", b"lo:1", bytes(Address.of(OWN))))
        ioctl(control, _SET_MASK, struct.pack("16s16s8x", b"lo:1", bytes(Address.of("255.255.255.255"))))
        ioctl(control, _ADD_ROUTE, bytes(route))


class Watch:
    """Packets on the loopback device that are not for this machine, and questions to any name server."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.tap = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ALL_PROTOCOLS))
        self._only_what_leaves()
        self.tap.bind(("lo", _ALL_PROTOCOLS))
        threading.Thread(target=self._look, daemon=True).start()

    def _only_what_leaves(self) -> None:
        """Let the kernel drop the rest, which is much. Classic BPF over IP headers: code, jumps if true and false."""
        protocol, own = 0xFFFFF000, int(ipaddress.ip_address(OWN))
        program = [
            (0x28, 0, 0, protocol), (0x15, 12, 0, 0x86DD), (0x15, 0, 20, 0x0800),  # IPv6, IPv4, or not looked at
            (0x20, 0, 0, 16), (0x15, 3, 0, own),  # destination
            (0x54, 0, 0, 0xFF000000), (0x15, 1, 0, 0x7F000000), (0x05, 0, 0, 14),  # 127.0.0.0/8, or take it
            (0x30, 0, 0, 9), (0x15, 0, 13, 17),  # to this machine: UDP…
            (0xB1, 0, 0, 0), (0x48, 0, 0, 2), (0x15, 9, 10, 53),  # …to port 53?
            (0x05, 0, 0, 0),
            (0x20, 0, 0, 24), (0x15, 0, 6, 0), (0x20, 0, 0, 28), (0x15, 0, 4, 0),  # ::1?
            (0x20, 0, 0, 32), (0x15, 0, 2, 0), (0x20, 0, 0, 36), (0x15, 1, 0, 1),
            (0x06, 0, 0, 0xFFFF), (0x06, 0, 0, 0),
        ]
        code = b"".join(struct.pack("=HBBI", *each) for each in program)
        buffer = ctypes.create_string_buffer(code)
        described = struct.pack("@HP", len(program), ctypes.addressof(buffer))
        self.tap.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, described)

    def _look(self) -> None:
        while True:
            packet, (_, protocol, *_) = self.tap.recvfrom(65535)
            start, size = (24, 16) if protocol == 0x86DD else (16, 4)
            target = name_asked(packet) or str(ipaddress.ip_address(packet[start : start + size]))
            if target not in self.found:
                self.found.append(target)


def name_asked(packet: bytes) -> str | None:
    """The name in a question to a name server; None for any other IP packet (RFC 1035, section 4.1.2)."""
    is_six = packet[0] >> 4 == 6
    start, protocol = (40, packet[6]) if is_six else (4 * (packet[0] & 15), packet[9])
    if protocol != socket.IPPROTO_UDP or struct.unpack_from("!H", packet, start + 2) != (53,):
        return None
    labels, at = [], start + 8 + 12
    while length := packet[at]:
        labels.append(packet[at + 1 : at + 1 + length].decode("ascii", "replace"))
        at += 1 + length
    return f"name {'.'.join(labels)}"


def send_on_purpose() -> None:
    """What the watch must see: a connection, and a datagram."""
    with socket.socket() as stream, suppress(OSError):
        stream.settimeout(0.3)
        stream.connect((CONTROL[0], 80))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram:
        datagram.sendto(b"x", (CONTROL[1], 9))


def look_round(seen: Seen) -> None:
    """The sockets that listen in this network, by what holds them, and the command lines of all descendants."""
    import psutil

    found = [each for each in psutil.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    lines = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            lines[process.pid] = " ".join(process.cmdline())
    seen.command_lines = sorted({*seen.command_lines, *lines.values()})
    for each in found:
        place = f"{each.laddr.ip}:{each.laddr.port}"
        seen.listening[place] = lines.get(each.pid) or seen.listening.get(place, "?")


def main(arguments: list[str]) -> None:
    result, *command = arguments
    enter()
    lead_nowhere()
    seen, watch = Seen(), Watch()
    send_on_purpose()
    wait_until(lambda: set(CONTROL) <= set(watch.found))
    seen.control, watch.found = watch.found, []
    process = subprocess.Popen(command)
    while process.poll() is None:
        look_round(seen)
        time.sleep(1.0)
    seen.code, seen.packets = process.returncode, watch.found
    content: dict[str, Any] = asdict(seen)
    Path(result).write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
