"""The client of a reward service, against a real server that misbehaves as told."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.rewards.config import HttpReward
from rlhf.rewards.http import http_scorer
from rlhf.rewards.sample import Failure, RewardSample

WRONG_ERRORS = 'answered "errors" that are no object: index of the sample → text (1 try)'
SAMPLES = [RewardSample(str(k), "2+2?", [{"role": "user", "content": "2+2?"}], "x" * k, source="s") for k in range(10)]


class Service(ThreadingHTTPServer):
    """Scores a response by its length; `plan` says what to do with the first requests instead."""

    daemon_threads = True

    def __init__(self, plan: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan = plan
        self.seen: list[dict] = []
        self.headers_seen: list[str | None] = []
        self.hosts_seen: list[str | None] = []
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()
        self.delay = 0.0
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        service = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with service.lock:
            service.seen.append(body)
            service.headers_seen.append(self.headers.get("Authorization"))
            service.hosts_seen.append(self.headers.get("Host"))
            service.at_once += 1
            service.most_at_once = max(service.most_at_once, service.at_once)
            todo = service.plan.pop(0) if service.plan else None
        time.sleep(service.delay)
        with service.lock:
            service.at_once -= 1
        scores = [len(sample["response"]) for sample in body["samples"]]
        if isinstance(todo, int):
            self._answer(todo, b"busy\nreally")
        elif todo == "close":
            self.connection.close()
        elif todo == "dribble":
            self._dribble()
        elif todo == "hang":
            service.over.wait()
        elif isinstance(todo, str):
            self._answer(307, b"there", {"Location": todo})
        else:
            self._answer(200, json.dumps({"scores": scores} if todo is None else todo).encode())

    def _dribble(self) -> None:
        """A byte now and then: no single read takes long."""
        try:
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b" ")
                time.sleep(0.05)
        except OSError:
            pass  # the client has left

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        try:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has left

    def log_message(self, *arguments: Any) -> None: ...


@contextmanager
def serving(plan: list[Any], tls: ssl.SSLContext | None = None) -> Iterator[Service]:
    server = Service(plan)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.over.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with serving([]) as server:
        yield server


def client(url: str, **changes: Any):
    settings = {"kind": "http", "url": url, "backoff_s": 0.01, "retries": 2, "batch_size": 4, **changes}
    return http_scorer(validate(HttpReward, settings), "reward.parts.it")


def test_scores_come_in_the_order_of_the_samples_and_samples_go_whole(service: Service) -> None:
    assert client(service.url)(SAMPLES) == [float(k) for k in range(10)]
    assert sorted(len(body["samples"]) for body in service.seen) == [2, 4, 4]
    first = next(body for body in service.seen if body["samples"][0]["id"] == "0")["samples"][0]
    assert first == {
        "id": "0", "prompt": "2+2?", "messages": [{"role": "user", "content": "2+2?"}], "response": "",
        "finished": True, "lang": "", "source": "s", "task": None,
    }


def test_no_more_requests_at_once_than_allowed(service: Service) -> None:
    service.delay = 0.5
    client(service.url, batch_size=1, concurrency=3)(SAMPLES)
    assert service.most_at_once == 3


@pytest.mark.parametrize("trouble", [[503, 429], ["close", 500]])
def test_a_service_that_recovers_is_asked_again(service: Service, trouble: list) -> None:
    service.plan = list(trouble)
    assert client(service.url, batch_size=10)(SAMPLES) == [float(k) for k in range(10)]
    assert len(service.seen) == 3


def test_a_slow_answer_is_not_waited_for(service: Service) -> None:
    service.plan = ["hang"]
    assert client(service.url, batch_size=10, timeout_s=2.0)(SAMPLES)[3] == 3.0
    assert len(service.seen) == 2


def test_an_answer_that_dribbles_is_not_waited_for(service: Service) -> None:
    service.plan = ["dribble"]
    (failed,) = client(service.url, timeout_s=0.5, retries=0)(SAMPLES[:1])
    assert failed == Failure(f"{service.url} did not answer within 0.5 s (1 try)")


def test_a_redirect_is_not_followed(service: Service) -> None:
    """Not even to a host that may be asked: the list is of URLs that the config names."""
    with serving([]) as other:
        service.plan = [other.url]
        (failed,) = client(service.url)(SAMPLES[:1])
        assert failed == Failure(f"{service.url} answered 307: there (1 try)")
        assert other.seen == []


def test_a_service_that_stays_down_fails_its_batch_alone(service: Service) -> None:
    service.plan = [500] * 3
    found = client(service.url, batch_size=5, concurrency=1, retries=1)(SAMPLES)
    # One request at once, and a batch keeps its place: the second one meets the third 500, and is asked again.
    assert found == [Failure(f"{service.url} answered 500: busy really (2 tries)")] * 5 + [5.0, 6.0, 7.0, 8.0, 9.0]


def test_a_service_that_hangs_is_given_up_and_what_it_answered_before_stays(service: Service, capsys) -> None:
    service.plan = [None, None, *["hang"] * 100]
    found = client(service.url, batch_size=1, concurrency=1, retries=1, timeout_s=1.5)(SAMPLES)
    hung = f"{service.url} did not answer within 1.5 s (2 tries)"
    unasked = f"was not asked: 3 batches before it failed, the last because {hung}"
    assert found == [0.0, 1.0, *[Failure(hung)] * 3, *[Failure(unasked)] * 5]
    assert len(service.seen) == 2 + 3 * 2
    assert capsys.readouterr().out == f"{hung}: a batch of 1 has no score\n" * 3


def test_requests_under_way_when_a_service_is_given_up_are_not_sent_again(service: Service) -> None:
    service.plan = ["hang"] * 1000
    found = client(service.url, batch_size=1, retries=3, timeout_s=0.2)(SAMPLES * 20)
    assert len(found) == 200 and all(isinstance(score, Failure) for score in found)
    assert len(service.seen) <= 4 * 4 + 2 * 4, "four at once, four tries of each, and two before the third failed"


def test_batches_that_wrong_answers_fail_do_not_end_the_call(service: Service) -> None:
    """They cost no time, and say nothing of the next one."""
    service.plan = [404] * 5
    found = client(service.url, batch_size=1, concurrency=1)(SAMPLES)
    assert found[5:] == [5.0, 6.0, 7.0, 8.0, 9.0] and len(service.seen) == 10


@pytest.mark.parametrize(
    ("answer", "reason", "requests"),
    [
        (404, "answered 404: busy really (1 try)", 1),
        ({"score": [1]}, 'answered without {"scores": […]} (1 try)', 1),
        ([1], 'answered without {"scores": […]} (1 try)', 1),
        ({"scores": [1, 2]}, "answered 2 scores for 10 samples (1 try)", 1),
        ({"scores": 3}, "answered no list of scores for 10 samples (1 try)", 1),
        ({"scores": "x" * 200_000}, "answered more than 106,496 bytes for 10 samples (1 try)", 1),
        ({"scores": [None] * 10, "errors": ["0"]}, WRONG_ERRORS, 1),
        ({"scores": [None] * 10, "errors": 5}, WRONG_ERRORS, 1),
        ({"scores": [None] * 10, "errors": "0"}, WRONG_ERRORS, 1),
        (302, "answered 302: busy really (1 try)", 1),
    ],
)
def test_a_wrong_answer_is_told_at_once(service: Service, answer: Any, reason: str, requests: int) -> None:
    service.plan = [answer]
    found = client(service.url, batch_size=10)(SAMPLES)
    assert found == [Failure(f"{service.url} {reason}")] * 10
    assert len(service.seen) == requests


def test_a_number_that_is_none_fails_its_sample_alone(service: Service) -> None:
    service.plan = [{"scores": [1, None, float("nan"), 1e999, "2", 3.5, 0, 0, 0, 0]}]
    found = client(service.url, batch_size=10)(SAMPLES)
    assert [isinstance(score, Failure) for score in found] == [False, True, True, True, True] + [False] * 5
    assert found[5] == 3.5


def test_nobody_there() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/"
    found = client(url, batch_size=10)(SAMPLES)
    assert isinstance(found[0], Failure) and "(3 tries)" in found[0].reason


def test_what_cannot_be_sent_fails_its_batch() -> None:
    for url in ("http://127.0.0.1:999999/score", "http:///score", "http://[::1/score"):
        with pytest.raises(ConfigError, match="url: no address"):
            client(url)
    odd = RewardSample("a", "?", [], "x", task={"answer": float("nan")})
    assert "cannot be sent" in client("http://127.0.0.1:1/score")([odd])[0].reason


def test_the_token_comes_from_the_environment(service: Service, monkeypatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "secret\n")
    client(service.url, token_env="MY_TOKEN")(SAMPLES)
    assert set(service.headers_seen) == {"Bearer secret"}
    monkeypatch.setenv("MY_TOKEN", "gehéim")
    with pytest.raises(ConfigError, match="MY_TOKEN holds no token: it must be printable ASCII"):
        client(service.url, token_env="MY_TOKEN")
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(ConfigError, match=r"reward\.parts\.it\.token_env: the environment variable MY_TOKEN"):
        client(service.url, token_env="MY_TOKEN")


def test_the_token_may_lie_in_a_file(service: Service, tmp_path: Path) -> None:
    """As Kubernetes mounts a secret."""
    file = tmp_path / "token"
    file.write_text("secret\n")
    client(service.url, token_file=str(file))(SAMPLES)
    assert set(service.headers_seen) == {"Bearer secret"}
    file.write_bytes(b"\xff\n")
    no_token = r"parts\.it\.token_file: .*/token holds no token: it must be printable ASCII"
    with pytest.raises(ConfigError, match=no_token):
        client(service.url, token_file=str(file))
    file.write_text("\n")
    with pytest.raises(ConfigError, match=r"token_file: .*/token is not set or empty"):
        client(service.url, token_file=str(file))
    with pytest.raises(ConfigError, match=r"token_file: .* cannot be read \(No such file or directory\)"):
        client(service.url, token_file=str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="token_env and token_file are both given; keep one"):
        client(service.url, token_file=str(file), token_env="MY_TOKEN")


def test_a_url_with_a_password_is_refused() -> None:
    with pytest.raises(ConfigError) as refused:
        validate(HttpReward, {"kind": "http", "url": "https://me:secret@example.org/score"})
    said = "url: holds a user or password; put a token into an environment variable, named by token_env"
    assert str(refused.value) == said  # without the value, which is the secret
