"""A FAKE OpenAI endpoint whose answers a function gives."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from nemotron_deploy.tests.fake_http import FakeServer, JsonHandler


@dataclass
class StandIn:
    """FAKE. Forms: OpenAI's API reference, "Chat Completions" and "Completions (legacy)".

    Attributes:
        answer: The answer to the last message of a conversation, or to a prompt.
        chats: Whether it takes conversations.
        log_probabilities: Of each token of a prompt of token numbers; None refuses `echo`.
        refuse_after: Refuses every request after so many answers.
        busy: So many requests are first answered with status 503.
        hold: Answers wait for it once `hold_after` were given.
        model: The served model.
        finish: The reason of the end of every answer.
    """

    answer: Callable[[str], str | None]
    chats: bool = True
    log_probabilities: Callable[[Sequence[int]], list[float]] | None = None
    refuse_after: int | None = None
    busy: int = 0
    hold: threading.Event | None = None
    hold_after: int = 0
    model: str = "tiny"
    finish: str = "stop"
    held: threading.Event = field(default_factory=threading.Event)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    answered: int = 0
    server: Any = None
    lock: Any = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        url: str = self.server.url
        return url

    @property
    def questions(self) -> list[str]:
        """The last message of each conversation that asks a question of a task."""
        asked = [body["messages"][-1]["content"] for body in self.bodies if "messages" in body]
        return [question for question in asked if question != "1 + 1"]

    def __enter__(self) -> StandIn:
        self.server = FakeServer(_Handler, self)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()


class _Handler(JsonHandler, BaseHTTPRequestHandler):
    settings: StandIn

    def do_GET(self) -> None:
        self.settings.keys.append(self.headers.get("authorization"))
        self._json(200, {"data": [{"id": self.settings.model}]})

    def do_POST(self) -> None:
        fake = self.settings
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        chat = self.path == "/v1/chat/completions"
        if chat and not fake.chats:
            self._json(400, {"error": {"message": "this model takes no conversations"}})
            return
        if body.get("echo"):
            self._echo(body)
            return
        with fake.lock:
            fake.bodies.append(body)
            if fake.busy:
                fake.busy -= 1
                self._json(503, {"error": "the model is loading"})
                return
            if fake.refuse_after is not None and fake.answered >= fake.refuse_after:
                self._json(400, {"error": {"message": "no more"}})
                return
            fake.answered += 1
            hold = fake.hold if fake.answered > fake.hold_after else None
        if hold is not None:
            fake.held.set()
            hold.wait()
        text = fake.answer(body["messages"][-1]["content"] if chat else body["prompt"])
        part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        self._json(200, {"choices": [{"index": 0, "finish_reason": fake.finish} | part]})

    def _echo(self, body: dict[str, Any]) -> None:
        given = self.settings.log_probabilities
        if given is None:
            self._json(400, {"error": {"message": "echo is not supported"}})
            return
        prompt = body["prompt"]
        rows = given(prompt if isinstance(prompt, list) else list(range(6)))
        columns = {
            "token_logprobs": [None, *rows[1:], -1.0],
            "top_logprobs": [None, *({"x": max(row, -2.0)} for row in rows[1:]), {"x": -1.0}],
        }
        self._json(200, {"choices": [{"index": 0, "text": "", "logprobs": columns}]})
