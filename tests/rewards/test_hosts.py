"""Which services a reward may ask: allow-lists, addresses that none may have, and names that change what they mean."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.rewards.config import RewardModelConfig
from rlhf.rewards.hosts import VARIABLE, AllowedHost, forbidden, is_allowed
from rlhf.rewards.limits import limits_of
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.rewards.scorers import scorer_of
from tests.rewards.test_http import Service, serving

SAMPLES = [RewardSample("0", "?", [], "abc")]


@pytest.fixture
def service() -> Iterator[Service]:
    with serving([]) as server:
        yield server


def scorer(url: str, allowed: list[str] | None = None) -> Any:
    part = {"kind": "http", "url": url, "retries": 1, "backoff_s": 0.01}
    config = validate(RewardModelConfig, {"parts": {"it": part}, "allowed_hosts": allowed})
    return scorer_of(config.parts["it"], "reward.parts.it", limits_of(config))


@pytest.mark.parametrize(
    ("entry", "url", "covers"),
    [
        ("judge.example", "https://judge.example/score", True),
        ("judge.example", "http://JUDGE.example.:8901/score", True),
        ("judge.example", "http://judge.example.evil/score", False),
        ("judge.example", "http://evil/judge.example", False),
        ("https://judge.example", "http://judge.example/", False),
        ("https://judge.example", "https://judge.example/", True),
        ("judge.example:8901", "http://judge.example:8901/", True),
        ("judge.example:443", "https://judge.example/", True),
        ("judge.example:8901", "http://judge.example/", False),
        ("*.example", "http://a.b.example/", True),
        ("*.example", "http://example/", False),
        ("*.example", "http://badexample/", False),
        ("127.0.0.1", "http://127.0.0.1:80/", True),
        ("[::1]", "http://[::1]:80/", True),
    ],
)
def test_what_an_entry_covers(entry: str, url: str, covers: bool) -> None:
    assert is_allowed(url, [entry]) == covers
    assert is_allowed(url, None) and not is_allowed(url, [])


@pytest.mark.parametrize("entry", ["", "*", "a/b", "ftp://a", "me@a", "a:b", "a*.b", "http://"])
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match="is no host; write HOST"):
        AllowedHost.parse(entry)


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "64:ff9b::a9fe:a9fe",
        "2002:a9fe:a9fe::1", "fe80::1", "fe80::1%lo", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "0.0.0.0",
        "::", "::ffff:0.0.0.0", "224.0.0.1", "ff02::1", "255.255.255.255",
    ],
)
def test_addresses_that_no_service_has(address: str) -> None:
    """Whatever a list says."""
    assert forbidden(address, address, named=True) and forbidden(address, "judge.example", named=False)


def test_a_name_that_means_this_machine_says_so() -> None:
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        assert forbidden(address, "judge.example", named=False)
        assert not forbidden(address, "judge.example", named=True)
        assert not forbidden(address, "localhost", named=False) and not forbidden(address, address, named=False)
    for address in ("10.0.0.7", "93.184.216.34", "2606:2800::1"):
        assert not forbidden(address, "judge.example", named=False)


def test_the_config_says_which_hosts(service: Service) -> None:
    assert scorer(service.url, ["localhost", "127.0.0.1"])(SAMPLES) == [3.0]
    with pytest.raises(ConfigError, match=r"parts\.it\.url: http://127\..* is none of allowed_hosts; add its host"):
        scorer(service.url, ["judge.example"])
    with pytest.raises(ConfigError, match="'ftp://x' is no host; write HOST"):
        scorer(service.url, ["ftp://x"])


def test_the_operator_says_which_hosts_and_no_config_adds_to_them(service: Service, monkeypatch) -> None:
    monkeypatch.setenv(VARIABLE, "judge.example, https://*.svc")
    for allowed in (None, ["127.0.0.1"]):
        with pytest.raises(ConfigError, match=r"reward\.parts\.it\.url: http://127\.0\.0\.1.*RLHF_REWARD_HOSTS"):
            scorer(service.url, allowed)
    monkeypatch.setenv(VARIABLE, "")
    with pytest.raises(ConfigError, match=r"none of the allowed hosts \(none is\)"):
        scorer(service.url)
    monkeypatch.setenv(VARIABLE, f"127.0.0.1:{service.server_port}")
    assert scorer(service.url)(SAMPLES) == [3.0]
    monkeypatch.setenv(VARIABLE, "a/b")
    with pytest.raises(ConfigError, match="environment variable RLHF_REWARD_HOSTS: 'a/b' is no host"):
        scorer(service.url)


@pytest.fixture
def names(monkeypatch) -> Callable[..., list[str]]:
    """Gives a name addresses, those of each look-up in turn; answers with the look-ups of names that were made."""
    plain = socket.getaddrinfo

    def set_up(name: str, *answers: list[str]) -> list[str]:
        asked: list[str] = []

        def look_up(host: Any, port: Any, *more: Any, **others: Any) -> Any:
            text = host.decode() if isinstance(host, bytes) else host
            if text != name:
                return plain(host, port, *more, **others)
            found = answers[min(len(asked), len(answers) - 1)]
            asked.append(text)
            return [entry for address in found for entry in plain(address, port, type=socket.SOCK_STREAM)]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return set_up


@pytest.mark.parametrize(
    ("addresses", "said"),
    [
        (["127.0.0.1"], "127.0.0.1 is this machine, and the name does not say so"),
        (["93.184.216.34", "127.0.0.1"], "127.0.0.1 is this machine, and the name does not say so"),
        (["169.254.169.254"], "169.254.169.254 is an address of a metadata service or link-local"),
        (["::ffff:127.0.0.1"], "::ffff:127.0.0.1 is this machine, and the name does not say so"),
    ],
)
def test_every_address_of_a_name_is_looked_at(service: Service, names: Callable, addresses: list, said: str) -> None:
    names("judge.example", addresses)
    url = f"http://judge.example:{service.server_port}/score"
    assert scorer(url)(SAMPLES) == [Failure(f"{url}: judge.example is not asked: {said} (1 try)")]
    assert service.seen == []


def test_a_name_that_changes_its_mind_is_not_followed(service: Service, names: Callable) -> None:
    """What is connected to is what was looked at: a second answer, that of this machine, is never asked for."""
    asked = names("judge.example", ["192.0.2.1"], ["127.0.0.1"])
    url = f"http://judge.example:{service.server_port}/score"
    part = {"kind": "http", "url": url, "retries": 0, "timeout_s": 0.5}
    config = validate(RewardModelConfig, {"parts": {"it": part}})
    (failed,) = scorer_of(config.parts["it"], "it", limits_of(config))(SAMPLES)
    assert isinstance(failed, Failure) and service.seen == [] and len(asked) == 1


def test_a_name_that_is_allowed_by_name_may_be_this_machine(service: Service, names: Callable) -> None:
    names("judge.example", ["127.0.0.1"])
    url = f"http://judge.example:{service.server_port}/score"
    assert scorer(url, ["judge.example"])(SAMPLES) == [3.0]
    assert service.hosts_seen == [f"judge.example:{service.server_port}"]  # the service is asked under its name
    names("judge.example", ["127.0.0.1", "169.254.169.254"])
    (failed,) = scorer(url, ["judge.example"])(SAMPLES)
    assert "169.254.169.254 is an address of a metadata service" in failed.reason


def test_another_address_is_tried_where_one_does_not_answer(service: Service, names: Callable) -> None:
    names("judge.example", ["::1", "127.0.0.1"])
    url = f"http://judge.example:{service.server_port}/score"
    assert scorer(url, ["judge.example"])(SAMPLES) == [3.0]


def test_no_proxy_and_no_netrc(service: Service, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert scorer(service.url)(SAMPLES) == [3.0]
    assert service.headers_seen == [None]


@pytest.mark.parametrize("query", ["api_key=abc", "a=1&token=abc", "Password=abc"])
def test_a_url_with_a_secret_in_its_query_is_refused(query: str) -> None:
    with pytest.raises(ConfigError) as refused:
        scorer(f"http://127.0.0.1/score?{query}")
    assert "holds a password or its like, under" in str(refused.value) and "abc" not in str(refused.value)


def test_a_name_in_a_certificate_is_still_the_hosts(names: Callable, tmp_path) -> None:
    """TLS is asked for the name, not for the address that is connected to."""
    import ssl
    import subprocess

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate, "-days", "2",
         "-subj", "/CN=judge.example", "-addext", "subjectAltName=DNS:judge.example"],
        check=True, capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with pytest.MonkeyPatch.context() as patch, serving([], context) as server:
        patch.setenv("SSL_CERT_FILE", str(certificate))
        for name, works in (("judge.example", True), ("other.example", False)):
            names(name, ["127.0.0.1"])
            found = scorer(f"https://{name}:{server.server_port}/score", [name])(SAMPLES)
            assert (found == [3.0]) == works, found
            assert works or "certificate" in found[0].reason
