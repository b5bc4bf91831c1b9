"""A served reward model answers what the reward's own actor answers, and refuses what it cannot read."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest
import torch

from rlhf.batch import from_completions
from rlhf.config import validate
from rlhf.errors import ConfigError, ModelError
from rlhf.rewards.config import HttpReward
from rlhf.rewards.http import http_scorer
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.rewards.server import application, load_served, serve
from rlhf.secrets import TokenPlace
from tests.limits import HANG_S, wait_until
from tests.ports import free_port

KEYS = ("--token-env", "--token-file")
NO_TOKEN = TokenPlace(None, None, KEYS)
TURNS = [{"role": "user", "content": "1 2 3"}]


def asked(app) -> httpx.Client:
    from fastapi.testclient import TestClient

    return TestClient(app)


@pytest.fixture(scope="module")
def served(tiny_models):
    return load_served(str(tiny_models.reward), "float32", 512)


def test_scores_are_those_of_the_rewards_actor(tiny_models, served) -> None:
    from rlhf.models.heads import SequenceScorer
    from rlhf.models.loading import load_reward_model, load_tokenizer
    from rlhf.ppo.scoring import Passes, reward_scores

    tokenizer = load_tokenizer(tiny_models.reward)
    prompt = tokenizer.apply_chat_template(TURNS, add_generation_prompt=True, tokenize=True, return_dict=False)
    ends, end = [True, False, True], tokenizer.eos_token_id
    texts = ["4 5", "4 5 6 7", ""]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [[*text, end] if ended else text for text, ended in zip(ids, ends, strict=True)]
    rollout = from_completions([prompt] * 3, rows, [[0.0] * len(row) for row in rows], ends, tokenizer.pad_token_id, 0)
    model = SequenceScorer(load_reward_model(tiny_models.reward, torch.float32)).eval()
    wanted = reward_scores(model, rollout, Passes.alone(rollout, 10_000), end)
    body = [
        {"messages": TURNS, "response": text, "finished": ended, "id": "unused"}
        for text, ended in zip(texts, ends, strict=True)
    ]
    answer = asked(application(served, "rm", None)).post("/score", json={"samples": body})
    assert answer.status_code == 200
    assert answer.json()["scores"] == pytest.approx(wanted.tolist(), abs=1e-5)
    assert len({round(score, 4) for score in answer.json()["scores"]}) == 3


def test_what_cannot_be_scored_is_refused(served) -> None:
    client = asked(application(served, "rm", None))
    assert client.post("/score", json={"samples": []}).json() == {"scores": [], "errors": {}}
    assert client.post("/score", json={"samples": [{"response": "x"}]}).status_code == 422
    long = {"messages": TURNS, "response": "1 " * 5000}
    short = {"messages": TURNS, "response": "1"}
    alone = client.post("/score", json={"samples": [short]}).json()["scores"]
    answer = client.post("/score", json={"samples": [short, long, short]}).json()
    assert answer["scores"] == [pytest.approx(alone[0], abs=1e-6), None, pytest.approx(alone[0], abs=1e-6)]
    assert list(answer["errors"]) == ["1"] and "the model's context holds 256" in answer["errors"]["1"]
    ended = {"messages": TURNS, "response": "1<|im_end|>"}
    assert client.post("/score", json={"samples": [ended]}).json()["scores"] != alone  # plain text, not an end
    assert client.get("/health").json() == {"model": "rm", "status": "ready"}


def test_what_is_odd_in_a_body_is_answered(served) -> None:
    client = asked(application(served, "rm", None))
    client.headers["Content-Type"] = "application/json"
    for body in (b'{"samples": [{"messages": NaN, "response": "1"}]}', b'{"samples": 1e999}', b'{"samples"', b"\xff"):
        assert client.post("/score", content=body).status_code in (400, 422)
    (found,) = client.post("/score", content=b'{"samples": NaN}').json()["detail"]
    assert found["loc"] == ["body", "samples"] and found["type"] == "list_type"


def test_half_of_a_character_costs_its_sample_alone(served) -> None:
    client = asked(application(served, "rm", None))
    client.headers["Content-Type"] = "application/json"
    half = [{"role": "user", "content": "\udfff"}]
    asked_of = ((TURNS, "\ud800"), (half, "1"), (TURNS, "1"))
    body = {"samples": [{"messages": turns, "response": response} for turns, response in asked_of]}
    answer = client.post("/score", content=json.dumps(body)).json()
    assert answer["scores"][:2] == [None, None] and isinstance(answer["scores"][2], float)
    assert answer["errors"] == dict.fromkeys("01", "holds half of a character (a lone surrogate)")


def test_a_template_that_fails_costs_the_sample_that_it_fails_for(served, monkeypatch) -> None:
    template = "{% for turn in messages %}{{ turn.content + 1 if turn.content == 'odd' else turn.content }}{% endfor %}"
    monkeypatch.setattr(served.tokenizer, "chat_template", template)
    samples = [{"messages": [{"role": "user", "content": text}], "response": "1"} for text in ("odd", "1 2 3")]
    answer = asked(application(served, "rm", None)).post("/score", json={"samples": samples}).json()
    assert answer["scores"][0] is None and isinstance(answer["scores"][1], float)
    assert answer["errors"]["0"].startswith("the chat template refuses its turns: ")


def test_a_token_is_asked_for(served) -> None:
    client = asked(application(served, "rm", "secret"))
    body = {"samples": [{"messages": TURNS, "response": "1"}]}
    assert client.post("/score", json=body).status_code == 401
    assert client.post("/score", json=body, headers={"Authorization": "Bearer wrong"}).status_code == 401
    assert client.post("/score", json=body, headers={"Authorization": "Bearer secret"}).status_code == 200


def test_nothing_is_read_of_who_has_no_token(served) -> None:
    """However much a stranger sends, it is not kept in memory."""
    sent: list[dict] = []

    async def never() -> dict:
        raise AssertionError("the body was asked for")

    async def send(message: dict) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/score", "raw_path": b"/score", "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "server": ("test", 80), "client": ("test", 1), "root_path": "",
    }
    asyncio.run(application(served, "rm", "secret")(scope, never, send))
    assert sent[0]["status"] == 401


def test_a_body_is_read_up_to_a_size(served, monkeypatch) -> None:
    """Also one that does not say how large it is."""
    client = asked(application(served, "rm", None))
    client.headers["Content-Type"] = "application/json"
    monkeypatch.setattr("rlhf.rewards.server.MOST_BYTES", 1000)
    body = json.dumps({"samples": [{"messages": TURNS, "response": "1"}]}).encode()
    assert client.post("/score", content=body).status_code == 200
    padded = body + b" " * 1000
    for content in (padded, iter([padded[:500], padded[500:]])):
        answer = client.post("/score", content=content)
        assert answer.status_code == 413
        assert answer.json() == {"detail": "more than 1000 bytes; send fewer samples at once"}


def test_an_open_door_is_refused(tiny_models) -> None:
    with pytest.raises(ConfigError, match=r"--host: 0\.0\.0\.0 is reached from other machines"):
        serve(str(tiny_models.reward), "0.0.0.0", 8901, NO_TOKEN, "float32", 512)
    with pytest.raises(ConfigError, match="--token-env: the environment variable NOT_THERE"):
        serve(str(tiny_models.reward), "127.0.0.1", 8901, TokenPlace("NOT_THERE", None, KEYS), "float32", 512)
    with pytest.raises(ModelError):
        serve(str(tiny_models.tied), "127.0.0.1", 8901, NO_TOKEN, "float32", 512)


@pytest.mark.slow
def test_the_command_and_the_client_speak_to_each_other(tiny_models) -> None:
    port = free_port()
    command = [sys.executable, "-m", "rlhf", "serve-reward", str(tiny_models.reward), "--port", str(port)]
    server = subprocess.Popen([*command, "--token-env", "SERVED_TOKEN"], env={**os.environ, "SERVED_TOKEN": "abc"})
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server)
        os.environ["SERVED_TOKEN"] = "abc"
        config = validate(HttpReward, {
            "kind": "http", "url": f"http://127.0.0.1:{port}/score", "token_env": "SERVED_TOKEN", "batch_size": 2,
        })
        samples = [RewardSample(str(k), "1 2 3", TURNS, "4 " * k) for k in range(5)]
        samples.append(RewardSample("long", "1 2 3", TURNS, "4 " * 5000))
        *scores, last = http_scorer(config, "reward.parts.it")(samples)
        assert not [score for score in scores if isinstance(score, Failure)]
        assert len(set(scores)) == 5
        assert isinstance(last, Failure) and "the model's context holds" in last.reason
    finally:
        os.environ.pop("SERVED_TOKEN", None)
        server.terminate()
        server.wait(HANG_S)


def wait_for(url: str, server: subprocess.Popen) -> None:
    def answers() -> bool:
        try:
            return httpx.get(url).status_code == 200
        except httpx.TransportError:
            return False

    wait_until(answers, lambda: server.poll() is None, url)
