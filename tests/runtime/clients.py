"""Clients of a `Service` in the same process."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from nemotron_deploy.runtime.chat import read_conversation
from nemotron_deploy.runtime.generation import Failure, GenerationRequest
from nemotron_deploy.runtime.service import Service


class Channel:
    """A client: collects what it is sent, and waits for the end. `on_send` is called after each
    response."""

    def __init__(self, on_send: Callable[[int], object] = lambda number: None) -> None:
        self._on_send = on_send
        self.sent: list[dict[str, Any]] = []
        self.error: tuple[str, Failure] | None = None
        self._ended = threading.Event()

    def send(self, outputs: dict[str, Any], final: bool) -> None:
        self.sent.append(outputs)
        self._on_send(len(self.sent))
        if final:
            self._ended.set()

    def send_error(self, message: str, failure: Failure) -> None:
        self.error = (message, failure)
        self._ended.set()

    def is_cancelled(self) -> bool:
        return False

    def wait(self) -> None:
        assert self._ended.wait(120)

    def joined(self, name: str) -> str:
        return "".join(str(outputs.get(name, "")) for outputs in self.sent)

    def calls(self) -> list[tuple[str, str]]:
        """Names and arguments of the calls, streamed or not."""
        calls: list[tuple[str, str]] = []
        for outputs in self.sent:
            for call in json.loads(outputs.get("tool_calls", "[]")):
                function = call["function"]
                if "name" in function:
                    calls.append((function["name"], ""))
                name, arguments = calls[-1]
                calls[-1] = (name, arguments + function["arguments"])
        return calls


Ask = Callable[..., Channel]


def asking(service: Service) -> Ask:
    def ask(**fields: Any) -> Channel:
        channel = Channel()
        service.submit("", lambda: GenerationRequest(**fields), channel)
        channel.wait()
        return channel

    return ask


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """Fields of a request with one message."""
    given = (fields.pop(name, None) for name in ("tools", "tool_choice", "arguments"))
    conversation, guide = read_conversation([{"role": "user", "content": text}], *given)
    wanted = {"max_tokens": None, "return_finish_reason": True}
    return wanted | {"conversation": conversation, "guide": guide} | fields
