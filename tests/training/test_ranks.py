"""Where the ranks of a role meet."""

import socket

import psutil
import pytest

from actors.network import interface_of
from rlhf.errors import UnreachableError
from rlhf.training.ranks import MeetingPlace, Rank, _require_served
from tests.ports import free_port


def test_every_place_has_a_port_of_its_own_that_is_served_from_the_start():
    places = [MeetingPlace("127.0.0.1") for _ in range(3)]
    assert len({place.port for place in places}) == 3
    for place in places:
        _require_served(Rank(1, 2, place.address, place.port))
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", place.port))


WITHOUT_IPV6 = pytest.mark.skipif(interface_of("::1") is None, reason="this machine has no IPv6")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", pytest.param("::1", marks=WITHOUT_IPV6)])
def test_a_place_is_served_at_its_own_address_alone(address):
    from torch.distributed import TCPStore

    place = MeetingPlace(address)
    listening = [each.laddr for each in psutil.Process().net_connections() if each.status == psutil.CONN_LISTEN]
    assert [found.ip for found in listening if found.port == place.port] == [address]
    TCPStore(place.address, place.port, is_master=False).set("a", "b")


def test_a_look_at_the_place_does_not_disturb_who_meets_there():
    from torch.distributed import TCPStore

    place = MeetingPlace("127.0.0.1")
    _require_served(Rank(0, 1, place.address, place.port))
    store = TCPStore(place.address, place.port, is_master=False)
    store.set("a", "b")
    assert store.get("a") == b"b"


def test_a_place_that_nobody_serves_is_a_sentence():
    nobody = Rank(1, 2, "127.0.0.1", free_port())
    with pytest.raises(UnreachableError, match=r"rank 1 of 2 cannot reach .* 127\.0\.0\.1:\d+ \(.*refused"):
        _require_served(nobody)
