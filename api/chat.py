"""`chat`: a conversation with a served model, over its OpenAI endpoint or Triton's gRPC port."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol
from urllib.parse import urlsplit

from ..core.errors import BadInputError, UsageError
from ..core.progress import Progress
from ..core.result import Result
from ..runtime import contract
from ..runtime.chat import THINKING_SWITCH

CONNECT_TIMEOUT_S: Final = 10.0

ANSWER_TIMEOUT_S: Final = 600.0
"""How long the next piece of an answer may take: a prompt can wait behind others."""

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Delta:
    """What one response adds to an answer. `calls` are pieces of tool calls in OpenAI's form;
    `finish` and `tokens`, the length of the answer, come once, at its end."""

    text: str = ""
    reasoning: str = ""
    calls: Sequence[Mapping[str, Any]] = ()
    finish: str | None = None
    tokens: int | None = None


class Connection(Protocol):
    """A way to the served model `model`."""

    model: str

    def stream(self, body: Mapping[str, Any]) -> Iterator[Delta]:
        """Answer a chat request in OpenAI's form. Closing the iterator stops the generation.

        Raises `BadInputError` with what the server reports.
        """


@dataclass(frozen=True, slots=True)
class Options:
    """What all questions of a chat have in common. `tools` are in OpenAI's form."""

    system: str | None = None
    thinking: bool = True
    max_tokens: int | None = None
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer. `seconds` are from the question to the end, `tokens_per_second` counts from the
    first token on; it is None where there was one response or the answer was interrupted."""

    question: str
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str | None = None
    tokens: int | None = None
    seconds: float = 0.0
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class ChatResult(Result):
    """A conversation: the served model, and every answer with its question."""

    SCHEMA: ClassVar[int] = 1

    model: str
    answers: tuple[Answer, ...]


@dataclass
class Chat:
    """A conversation over `connection`. An answer that was interrupted stays in it as far as it
    came; a question that failed does not."""

    connection: Connection
    options: Options = field(default_factory=Options)
    answers: list[Answer] = field(default_factory=list)

    def ask(self, question: str) -> Generator[Delta, None, None]:
        """The answer as it comes; it is added to `answers` when the iterator ends or is closed.

        Raises `BadInputError` with what the server reports.
        """
        answer, began, first = Answer(question), time.perf_counter(), 0.0
        calls: dict[int, dict[str, Any]] = {}
        try:
            for delta in self.connection.stream(self._body(question)):
                now = time.perf_counter()
                first = first or now
                _add(calls, delta.calls)
                answer = replace(
                    answer,
                    content=answer.content + delta.text,
                    reasoning=answer.reasoning + delta.reasoning,
                    finish_reason=delta.finish or answer.finish_reason,
                    tokens=delta.tokens or answer.tokens,
                    seconds=now - began,
                )
                yield delta
        except BadInputError:
            answer = replace(answer, question="")
            raise
        finally:
            if answer.question:
                spent = began + answer.seconds - first
                rate = (answer.tokens - 1) / spent if answer.tokens and spent > 0 else None
                made = tuple(calls.values())
                self.answers.append(replace(answer, tool_calls=made, tokens_per_second=rate))

    def result(self) -> ChatResult:
        """The conversation so far."""
        return ChatResult(self.connection.model, tuple(self.answers))

    def _body(self, question: str) -> dict[str, Any]:
        options = self.options
        messages: list[Message] = []
        if options.system is not None:
            messages.append({"role": "system", "content": options.system})
        for answer in self.answers:
            messages.append({"role": "user", "content": answer.question})
            said: dict[str, Any] = {"role": "assistant", "content": answer.content}
            complete = [call for call in answer.tool_calls if _is_json(call)]
            messages.append(said | ({"tool_calls": complete} if complete else {}))
        messages.append({"role": "user", "content": question})
        body: dict[str, Any] = {
            "model": self.connection.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if options.max_tokens is not None:
            body["max_tokens"] = options.max_tokens
        if not options.thinking:
            body[contract.TEMPLATE_ARGUMENTS.name] = {THINKING_SWITCH: False}
        if options.tools:
            body["tools"] = list(options.tools)
        return body


@contextmanager
def chat(
    target: str | Path,
    *,
    system: str | None = None,
    thinking: bool = True,
    max_tokens: int | None = None,
    tools: Sequence[Mapping[str, Any]] = (),
    model: str | None = None,
    executor: str = "auto",
    script: str | Path | None = None,
    verify: str = "quick",
    trust_code: bool = False,
    progress: Progress | None = None,
) -> Iterator[Chat]:
    """A conversation with a served model, which ends with the block.

    Args:
        target: A bundle's directory, which is served on this machine meanwhile, the URL of an
            OpenAI endpoint, or `grpc://host:port` of a Triton server.
        system: What the system message says.
        thinking: Whether the model reasons before it answers.
        max_tokens: Tokens of an answer, at most; by default what the context leaves.
        tools: Tools that the model may call, in OpenAI's form. Nothing runs them.
        model: The served model; by default the only one.
        executor, script, verify, trust_code: How to serve a bundle, as for `serve`.
        progress: Receives what is being done.

    Raises `UsageError` for a target that is none of these, `BadInputError` for a server that does
    not answer or whose model takes no conversations, and what `serve` raises for a bundle.
    """
    options = Options(system, thinking, max_tokens, tools)
    if Path(target).is_dir():
        from .serve import serve

        with serve(
            target,
            executor=executor,
            script=script,
            verify=verify,
            trust_code=trust_code,
            grace=0,
            progress=progress,
        ) as served:
            yield Chat(connect(f"grpc://{served.result.grpc}", served.result.model), options)
        return
    if executor != "auto" or script is not None:
        raise UsageError("--executor and --script are for a bundle that is served here")
    yield Chat(connect(str(target), model), options)


def connect(url: str, model: str | None = None) -> Connection:
    """The way to the model `model`, or the only one, behind `url`.

    Raises `UsageError` for what is no such URL, `BadInputError` for a server that does not answer
    or has no such model.
    """
    scheme = urlsplit(url).scheme.lower()
    if scheme in ("http", "https"):
        from .chat_connections import HttpConnection

        return HttpConnection(url, model, os.environ.get(contract.OPENAI_KEY.name))
    if scheme == "grpc":
        from .chat_connections import GrpcConnection

        return GrpcConnection(url, model)
    raise UsageError(
        f"{url}: is neither a bundle's directory nor a URL, such as http://127.0.0.1:9000/v1 or "
        "grpc://127.0.0.1:8001"
    )


def read_tools(path: Path) -> list[Mapping[str, Any]]:
    """The tools in a JSON file. Raises `BadInputError` naming the file."""
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: is not valid JSON ({error})") from error
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadInputError(f"{path}: must hold a JSON list of tools in OpenAI's form")
    return tools


def _add(calls: dict[int, dict[str, Any]], pieces: Sequence[Mapping[str, Any]]) -> None:
    """Join pieces of tool calls to whole ones, by index."""
    for piece in pieces:
        function = piece["function"]
        if function.get("name"):
            named = {"name": function["name"], "arguments": ""}
            calls[piece["index"]] = {"id": piece["id"], "type": "function", "function": named}
        calls[piece["index"]]["function"]["arguments"] += function.get("arguments") or ""


def _is_json(call: Mapping[str, Any]) -> bool:
    """Whether a call's arguments came whole."""
    try:
        json.loads(call["function"]["arguments"])
    except ValueError:
        return False
    return True
