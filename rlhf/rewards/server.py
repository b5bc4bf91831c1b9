"""A trained reward model behind HTTP, in the form that `reward.parts.NAME: {kind: http}` speaks."""

from __future__ import annotations

import hmac
import ipaddress
import threading
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.datastructures import Headers
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from rlhf import device
from rlhf.batch import Rollout, from_completions
from rlhf.device import Precision
from rlhf.errors import ConfigError
from rlhf.secrets import TokenPlace

MOST_SAMPLES, MOST_BYTES = 4096, 64 * 2**20  # of one request
HEALTH = "/health"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Turn(BaseModel):
    """One message of a conversation."""

    role: str
    content: str


class Sample(BaseModel):
    """A prompt as turns, and one response. What else a client sends of a sample is not used."""

    model_config = ConfigDict(extra="ignore")

    messages: Annotated[list[Turn], Field(min_length=1)]
    response: str
    finished: bool = True


class Question(BaseModel):
    """The body of a request."""

    samples: Annotated[list[Sample], Field(max_length=MOST_SAMPLES)]


class Answer(BaseModel):
    """One score per sample, in order; null for a sample that this model cannot read, and why in `errors`."""

    scores: list[float | None]
    errors: dict[int, str]


class Unfit(Exception):
    """A sample that this model cannot read; the message says why."""


@dataclass(frozen=True)
class Row:
    """A sample as tokens; `number` is its place in the request."""

    number: int
    prompt: list[int]
    response: list[int]
    finished: bool


@dataclass
class ServedModel:
    """A reward model and its tokenizer; one request is scored at a time."""

    scorer: Any
    tokenizer: Any
    longest: int
    micro_batch_tokens: int
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def score(self, samples: Sequence[Sample]) -> Answer:
        """Scores of all samples that the chat template takes and the model's context holds."""
        from rlhf.ppo.scoring import Passes, reward_scores

        rows: list[Row] = []
        errors: dict[int, str] = {}
        for number, sample in enumerate(samples):
            try:
                rows.append(self._row(number, sample))
            except Unfit as error:
                errors[number] = str(error)
        scores: list[float | None] = [None] * len(samples)
        if rows:
            rollout = self._rollout(rows)
            passes = Passes.alone(rollout, self.micro_batch_tokens)
            with self._turn:
                found = reward_scores(self.scorer, rollout, passes, self.tokenizer.eos_token_id)
            for row, score in zip(rows, found.tolist(), strict=True):
                scores[row.number] = score
        return Answer(scores=scores, errors=errors)

    def _rollout(self, rows: Sequence[Row]) -> Rollout:
        zeros = [[0.0] * len(row.response) for row in rows]
        return from_completions(
            [row.prompt for row in rows], [row.response for row in rows], zeros, [row.finished for row in rows],
            self.tokenizer.pad_token_id, 0,
        )

    def _row(self, number: int, sample: Sample) -> Row:
        """What a response spells out of special tokens is plain text: it cannot end its turn."""
        _require_whole([sample.response, *(part for turn in sample.messages for part in (turn.role, turn.content))])
        text = self.tokenizer(sample.response, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        response = [*text, self.tokenizer.eos_token_id] if sample.finished else text
        row = Row(number, self._prompt(sample), response, sample.finished)
        length = len(row.prompt) + len(response) + (not sample.finished)
        if length > self.longest:
            raise Unfit(f"{length} tokens, and the model's context holds {self.longest}")
        return row

    def _prompt(self, sample: Sample) -> list[int]:
        from jinja2 import TemplateError

        turns = [turn.model_dump() for turn in sample.messages]
        try:
            return self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:  # a template is a program
            raise Unfit(f"the chat template refuses its turns: {error}") from None


def _require_whole(texts: Sequence[str]) -> None:
    """JSON can say half of a character, which no tokenizer takes."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise Unfit("holds half of a character (a lone surrogate)") from None


def load_served(model: str, precision: Precision, micro_batch_tokens: int) -> ServedModel:
    """Raises ModelError when `model` is no reward model, or its tokenizer does not fit it."""
    from rlhf.models.heads import SequenceScorer
    from rlhf.models.loading import (
        check_reward_model,
        check_tokenizer,
        load_reward_model,
        load_tokenizer,
        require_chat_template,
    )

    sizes, tokenizer = check_reward_model(model), load_tokenizer(model)
    check_tokenizer(tokenizer, sizes, model)
    require_chat_template(tokenizer, model)
    scorer = SequenceScorer(load_reward_model(model, device.dtype(precision))).to(device.current()).eval()
    return ServedModel(scorer, tokenizer, sizes.max_position_embeddings, micro_batch_tokens)


class Gate:
    """Whose request is read, and how much of it: decided before its body is.

    FastAPI asks what an endpoint depends on only after it has read the body, and reads that whatever its size.
    """

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] == HEALTH:
            await self.app(scope, receive, send)
        elif self._is_known(Headers(scope=scope).get("authorization", "")):
            await self.app(scope, _limited(receive), send)
        else:
            await JSONResponse({"detail": "wrong or missing bearer token"}, 401)(scope, receive, send)

    def _is_known(self, authorization: str) -> bool:
        return self.token is None or hmac.compare_digest(authorization.encode(), f"Bearer {self.token}".encode())


def _limited(receive: Receive) -> Receive:
    """The same body, up to a size."""
    read = 0

    async def limited() -> Message:
        nonlocal read
        message = await receive()
        read += len(message.get("body", b""))
        if read > MOST_BYTES:
            raise HTTPException(413, f"more than {MOST_BYTES} bytes; send fewer samples at once")
        return message

    return limited


async def _not_as_asked(request: Request, error: Exception) -> JSONResponse:
    """What is wrong and where, without what was sent: that need not be anything that JSON can say."""
    assert isinstance(error, RequestValidationError)
    problems = [{key: found[key] for key in ("loc", "msg", "type")} for found in error.errors()]
    return JSONResponse({"detail": problems}, 422)


def application(served: ServedModel, name: str, token: str | None) -> FastAPI:
    """POST /score and GET /health; with a token, /score asks for it as a bearer token."""
    app = FastAPI(title="rlhf reward model", openapi_url=None)
    app.add_middleware(Gate, token=token)
    app.add_exception_handler(RequestValidationError, _not_as_asked)

    @app.post("/score")
    def score(question: Question) -> Answer:
        return served.score(question.samples)

    @app.get(HEALTH)
    def health() -> dict[str, str]:
        return {"model": name, "status": "ready"}

    return app


def serve(model: str, host: str, port: int, place: TokenPlace, precision: Precision, budget: int) -> None:
    """Serve until interrupted. Raises ConfigError for an address that others reach without a token."""
    import uvicorn

    token = place.read()
    if token is None and not _is_loopback(host):
        raise ConfigError(
            f"--host: {host} is reached from other machines; give --token-env or --token-file, or use 127.0.0.1"
        )
    served = load_served(model, precision, budget)
    print(f"rlhf: serving {model} at http://{host}:{port}/score", flush=True)
    uvicorn.run(application(served, Path(model).name, token), host=host, port=port, log_level="warning")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
