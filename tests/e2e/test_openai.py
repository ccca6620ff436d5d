"""The OpenAI endpoint with the real `openai` client and an agent framework: one server, which
plays a script, for all of it.

The server takes three requests at a time, so a slot that is not freed is noticed.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import pytest
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.triton_repo import local
from nemotron_deploy.triton_repo.openai import Endpoint

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"

KEY = "sk-right"

ACTIVE = 2
SLOTS = ACTIVE + 1
"""Requests that are generated at the same time, and those with the one that may wait."""

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city", "parameters": CITY},
}


def call(city: str) -> str:
    parameter = f"<parameter=city>\n{city}\n</parameter>\n"
    return f"<tool_call>\n<function=weather>\n{parameter}</function>\n</tool_call>"


def bytewise(text: str) -> list[dict[str, str]]:
    return [{"hex": f"{byte:02x}"} for byte in text.encode()]


SCRIPT: list[dict[str, Any]] = [
    # The answer to the tool's result comes first: the prompt holds the question as well.
    {"when": "18 degrees", "pieces": bytewise("Good.</think>It is mild in Zürich.")},
    {"when": "in Zürich?", "pieces": bytewise(f"I look it up.{call('Zürich')}")},
    {"when": "two calls", "pieces": bytewise(f"</think>Both.\n{call('Bern')}\n{call('Basel')}")},
    {"when": "for ever", "pieces": ["</think>", *["and on "] * 3000], "pace_ms": 20},
    {"when": "a long one", "pieces": ["</think>", *["step "] * 100], "pace_ms": 10},
    {"when": "no thoughts", "pieces": bytewise("Plain.")},
    {"when": "", "pieces": bytewise("Hm, 日本.</think>Grüezi 😀, STOP and go.")},
]

THOUGHTS, TEXT = "Hm, 日本.", "Grüezi 😀, STOP and go."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    folder = tmp_path_factory.mktemp("bundle")
    bundle = scripted_bundle(folder, SCRIPT, ACTIVE, TEMPLATE)
    config = bundle.repository / "tiny" / "config.pbtxt"
    config.write_text(config.read_text().replace('string_value: "256"', 'string_value: "1"'))
    keys = folder / "keys"
    keys.write_text(f"# clients\nsk-other\n{KEY}\n")
    endpoint = Endpoint("tiny", api_keys=keys)
    with local.LocalServer(
        bundle.repository,
        executor="scripted",
        script=bundle.script,
        openai=endpoint,
        grace=30,
    ) as running:
        running.wait_ready()
        yield running


@pytest.fixture(scope="module")
def client(server: local.LocalServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.openai_url, api_key=KEY, max_retries=0) as made:
        yield made


def asked(question: str, **values: Any) -> dict[str, Any]:
    """Arguments of a request; those that the client does not know go in its `extra_body`."""
    return {"model": "tiny", "messages": [{"role": "user", "content": question}]} | values


def whole(client: openai.OpenAI, question: str, **values: Any) -> Any:
    return client.chat.completions.create(**asked(question, **values))


class Streamed:
    """A streamed chat, joined for each choice."""

    def __init__(self, client: openai.OpenAI, question: str, **values: Any) -> None:
        chunks = list(client.chat.completions.create(**asked(question, **values), stream=True))
        self.usages = [chunk.usage for chunk in chunks if chunk.usage is not None]
        self.content: dict[int, str] = {}
        self.reasoning: dict[int, str] = {}
        self.finish: dict[int, str] = {}
        self.calls: dict[int, list[str]] = {}
        self.ids: set[str] = set()
        self.tokens: list[str] = []
        for choice in (choice for chunk in chunks for choice in chunk.choices):
            index, delta = choice.index, choice.delta
            thoughts = getattr(delta, "reasoning_content", None) or ""
            self.content[index] = self.content.get(index, "") + (delta.content or "")
            self.reasoning[index] = self.reasoning.get(index, "") + thoughts
            if choice.finish_reason:
                assert index not in self.finish
                self.finish[index] = choice.finish_reason
            if choice.logprobs:
                self.tokens += [row.token for row in choice.logprobs.content or []]
            for piece in delta.tool_calls or []:
                if piece.id:
                    self.ids.add(piece.id)
                    self.calls[piece.index] = [piece.function.name, ""]
                self.calls[piece.index][1] += piece.function.arguments


def test_models_and_health(client: openai.OpenAI, server: local.LocalServer) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("huge")
    base = str(server.openai_url).removesuffix("/v1")
    for path in ("/health", "/health/live"):
        with urllib.request.urlopen(f"{base}{path}", timeout=10) as response:
            assert response.status == 200


def test_text_reasoning_and_usage(client: openai.OpenAI) -> None:
    answer = whole(client, "Hello", user="me", metadata={"a": "b"})
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == (TEXT, "stop")
    assert choice.message.model_extra["reasoning_content"] == THOUGHTS
    assert choice.message.tool_calls is None
    usage = answer.usage
    assert usage.completion_tokens == len(f"{THOUGHTS}</think>{TEXT}".encode()) + 1
    assert usage.completion_tokens_details.reasoning_tokens >= len(THOUGHTS.encode())
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


@pytest.mark.parametrize("question", ["Hello", "no thoughts", "two calls", "in Zürich?"])
def test_a_stream_is_the_whole_answer(client: openai.OpenAI, question: str) -> None:
    values: dict[str, Any] = {"tools": [WEATHER]}
    if question == "no thoughts":
        values["extra_body"] = {"chat_template_kwargs": {"enable_thinking": False}}
    (choice,) = whole(client, question, **values).choices
    streamed = Streamed(client, question, **values)
    message = choice.message
    assert streamed.content == {0: message.content or ""}
    assert streamed.reasoning == {0: message.model_extra.get("reasoning_content", "")}
    assert streamed.finish == {0: choice.finish_reason}
    calls = [[c.function.name, c.function.arguments] for c in message.tool_calls or []]
    assert list(streamed.calls.values()) == calls
    assert len(streamed.ids) == len(calls)
    assert not streamed.usages


def test_usage_of_a_stream_is_that_of_the_whole(client: openai.OpenAI) -> None:
    streamed = Streamed(client, "Hello", stream_options={"include_usage": True})
    assert streamed.usages == [whole(client, "Hello").usage]


def test_tools(client: openai.OpenAI) -> None:
    (choice,) = whole(client, "two calls", tools=[WEATHER], tool_choice="auto").choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Both."
    calls = choice.message.tool_calls or []
    assert [json.loads(c.function.arguments) for c in calls] == [
        {"city": "Bern"},
        {"city": "Basel"},
    ]
    assert len({c.id for c in calls}) == 2


def test_a_tool_loop_by_hand_with_its_reasoning(client: openai.OpenAI) -> None:
    question = {"role": "user", "content": "How is it in Zürich?"}
    (first,) = whole(client, "How is it in Zürich?", tools=[WEATHER]).choices
    assert first.message.content is None
    assistant = first.message.model_dump(exclude_none=True)
    result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id}
    history = [question, assistant, result | {"content": "18 degrees"}]
    (last,) = whole(client, "", messages=history, tools=[WEATHER]).choices
    assert last.message.content == "It is mild in Zürich."
    # vLLM's name of the same field
    assistant["reasoning"] = assistant.pop("reasoning_content")
    (again,) = whole(client, "", messages=history, tools=[WEATHER]).choices
    assert again.message.content == last.message.content


def test_an_agent_framework(server: local.LocalServer) -> None:
    cities = []
    provider = OpenAIProvider(base_url=str(server.openai_url), api_key=KEY)
    agent = Agent(OpenAIChatModel("tiny", provider=provider))

    @agent.tool_plain
    def weather(city: str) -> str:
        """Weather of a city."""
        cities.append(city)
        return "18 degrees"

    async def streamed() -> str:
        async with agent.run_stream("And in Zürich?") as result:
            return str(await result.get_output())

    async def both() -> tuple[str, str]:
        result = await agent.run("How is it in Zürich?")
        return str(result.output), await streamed()

    assert asyncio.run(both()) == ("It is mild in Zürich.",) * 2
    assert cities == ["Zürich", "Zürich"]


def test_limits_and_stop(client: openai.OpenAI) -> None:
    (cut,) = whole(client, "Hello", max_completion_tokens=4).choices
    assert (cut.finish_reason, cut.message.content) == ("length", "")
    (stopped,) = whole(client, "Hello", stop=["STOP"], seed=7, temperature=0.5).choices
    assert (stopped.finish_reason, stopped.message.content) == ("stop", "Grüezi 😀, ")
    budget = whole(client, "Hello", extra_body={"thinking_budget": 2})
    assert budget.choices[0].message.content == TEXT
    assert budget.choices[0].message.model_extra["reasoning_content"] == "Hm"


def test_reasoning_effort_none_turns_thinking_off(client: openai.OpenAI) -> None:
    (choice,) = whole(client, "no thoughts", reasoning_effort="none").choices
    assert choice.message.content == "Plain."
    assert "reasoning_content" not in choice.message.model_extra


def test_logprobs(client: openai.OpenAI) -> None:
    (choice,) = whole(client, "no thoughts", logprobs=True, top_logprobs=1).choices
    rows = choice.logprobs.content
    assert "".join(row.token for row in rows) == "Plain."
    assert all(row.logprob == 0.0 and len(row.top_logprobs) == 1 for row in rows)
    streamed = Streamed(client, "no thoughts", logprobs=True)
    assert streamed.tokens == [row.token for row in rows]


def test_several_choices(client: openai.OpenAI) -> None:
    answer = whole(client, "Hello", n=SLOTS, seed=1)
    assert [choice.index for choice in answer.choices] == list(range(SLOTS))
    assert {choice.message.content for choice in answer.choices} == {TEXT}
    one = whole(client, "Hello").usage
    assert answer.usage.prompt_tokens == one.prompt_tokens
    assert answer.usage.completion_tokens == SLOTS * one.completion_tokens
    streamed = Streamed(client, "Hello", n=SLOTS, stream_options={"include_usage": True})
    assert streamed.content == dict.fromkeys(range(SLOTS), TEXT)
    assert streamed.usages == [answer.usage]


def test_completions(client: openai.OpenAI) -> None:
    text = f"{THOUGHTS}</think>{TEXT}"
    limits: dict[str, Any] = {"model": "tiny", "max_tokens": 100}
    one = client.completions.create(prompt="Say it", **limits)
    assert (one.choices[0].text, one.choices[0].finish_reason) == (text, "stop")
    two = client.completions.create(prompt=["Say it", "And that"], **limits)
    assert [choice.text for choice in two.choices] == [text, text]
    assert two.usage.prompt_tokens > one.usage.prompt_tokens
    tokens = client.completions.create(prompt=[5, 6, 7], **limits)
    assert (tokens.choices[0].text, tokens.usage.prompt_tokens) == (text, 3)
    short: Any = client.completions.create(model="tiny", prompt="Say it")
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 16)
    chunks = client.completions.create(prompt="no thoughts", logprobs=1, stream=True, **limits)
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert "".join(choice.text for choice in choices) == "Plain."
    offsets = [at for choice in choices if choice.logprobs for at in choice.logprobs.text_offset]
    assert offsets == [0, 1, 2, 3, 4, 5, 6]
    assert choices[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("values", "param", "said"),
    [
        ({"extra_body": {"colour": 1}}, "colour", "unknown field 'colour'; known are"),
        ({"temperature": -1}, "temperature", "temperature must be between 0 and 100"),
        ({"max_tokens": 10**12}, "max_tokens", "max_tokens must be a whole number"),
        ({"max_tokens": 0}, "max_tokens", "max_tokens must be at least 1"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_completion_tokens", "two names"),
        ({"n": 17}, "n", "n must be a whole number from 1 to 16"),
        ({"seed": -1}, "seed", "seed must be a whole number"),
        ({"stop": 5}, "stop", "stop must be a text"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "needs stream"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "supports {} only"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "supports true only"),
        ({"tools": [WEATHER], "tool_choice": "required"}, "tool_choice", "cannot guide"),
        ({"response_format": {"type": "json_object"}}, "response_format", "cannot guide"),
        ({"messages": []}, "messages", "messages is empty"),
        ({"messages": [{"role": "robot"}]}, "messages", "role must be one of"),
        ({"extra_body": {"chat_template_kwargs": {"x": 1}}}, None, "no variable 'x'"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "must be one of"),
        ({"extra_body": {"timeout": 0}}, "timeout", "must be above 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "",
)
def test_bad_requests(
    client: openai.OpenAI, values: dict[str, Any], param: str | None, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        whole(client, "Hello", **values)
    body = caught.value.body
    assert isinstance(body, dict)
    assert said in body["message"]
    assert body["type"] == "invalid_request_error"
    if param is not None:
        assert body["param"] == param


def test_bad_requests_are_refused_before_a_stream_begins(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(**asked("Hello", temperature=-1), stream=True)


def post(server: local.LocalServer, data: bytes, key: str = KEY) -> tuple[int, Any]:
    request = urllib.request.Request(
        f"{server.openai_url}/chat/completions",
        data=data,
        headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize(
    ("data", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b'{"model": "tiny"}', 400, "missing_required_parameter"),
        (b'{"messages": []}', 400, "missing_required_parameter"),
        (b'{"model": "tiny", "messages": "\xff"}', 400, "invalid_json"),
        (b'{"model": "huge", "messages": []}', 404, "model_not_found"),
        (b" " * (8 * 2**20 + 1), 413, "request_too_large"),
    ],
    ids=["cut", "list", "no messages", "no model", "no UTF-8", "other model", "too long"],
)
def test_bad_bodies(server: local.LocalServer, data: bytes, status: int, code: str) -> None:
    given, body = post(server, data)
    assert (given, body["error"]["code"]) == (status, code)


def test_unknown_paths_and_methods(server: local.LocalServer) -> None:
    for path, method, status in (("/nothing", "GET", 404), ("/completions", "GET", 405)):
        request = urllib.request.Request(
            f"{server.openai_url}{path}", method=method, headers={"authorization": f"Bearer {KEY}"}
        )
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        with caught.value as error:
            assert (error.code, "message" in json.load(error)["error"]) == (status, True)


def test_keys(server: local.LocalServer) -> None:
    for key in ("sk-wrong", "", KEY + "x", "# clients"):
        status, body = post(server, b"{", key)
        assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    with (
        openai.OpenAI(base_url=server.openai_url, api_key="sk-wrong", max_retries=0) as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.models.list()
    with openai.OpenAI(base_url=server.openai_url, api_key="sk-other", max_retries=0) as other:
        assert len(list(other.models.list())) == 1


def test_keys_are_read_again_when_their_file_changes(server: local.LocalServer) -> None:
    """As kubelet does it with a Secret: another file takes the place of the old one."""
    file = server.repository.parent / "keys"
    before = file.read_text()

    def replace(text: str) -> None:
        other = file.with_name("keys.new")
        other.write_text(text)
        other.replace(file)

    replace("sk-new\n")
    try:
        assert post(server, b"{", "sk-new")[0] == 400
        assert post(server, b"{", KEY)[0] == 401
    finally:
        replace(before)
    assert post(server, b"{", "sk-new")[0] == 401
    assert post(server, b"{", KEY)[0] == 400


def test_deadlines(client: openai.OpenAI) -> None:
    late = asked("for ever", extra_body={"timeout": 0.3})
    with pytest.raises(openai.InternalServerError) as caught:
        client.chat.completions.create(**late)
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    with pytest.raises(openai.APIError) as cut:
        for _ in client.chat.completions.create(**late, stream=True):
            pass
    assert cut.value.code == "timeout"
    settle(client)


def settle(client: openai.OpenAI) -> None:
    """Return once every slot is free: as many requests as there are slots are then served."""
    deadline = time.monotonic() + 30
    while True:
        try:
            whole(client, "Hello", n=SLOTS)
        except openai.InternalServerError:
            assert time.monotonic() < deadline, "a slot was not freed"
            continue
        return


@contextmanager
def request(server: local.LocalServer, **body: Any) -> Iterator[None]:
    """A request whose client waits for the answer until the block ends, and then hangs up."""
    address = urlsplit(str(server.openai_url))
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    with socket.create_connection((str(address.hostname), int(address.port or 0))) as connection:
        connection.sendall(head.encode() + data)
        yield


def late_or_refused(client: openai.OpenAI, **values: Any) -> openai.InternalServerError | None:
    """The error of a request that should be answered within a second, None if it is."""
    try:
        client.chat.completions.create(**asked("no thoughts", extra_body={"timeout": 1}), **values)
    except openai.InternalServerError as error:
        return error
    return None


def refusal(client: openai.OpenAI, **values: Any) -> openai.InternalServerError:
    """The error of a request once every slot is taken."""
    deadline = time.monotonic() + 30
    while True:
        error = late_or_refused(client, **values)
        if error is not None and error.code != "timeout":
            return error
        assert time.monotonic() < deadline, "no request was refused"


def test_overload_and_streams_that_are_closed(
    client: openai.OpenAI, server: local.LocalServer
) -> None:
    streams = [
        client.chat.completions.create(**asked("for ever"), stream=True) for _ in range(ACTIVE)
    ]
    for stream in streams:
        assert next(iter(stream)).choices
    # One request may wait. Which of two comes first is not certain, so more than one is sent.
    with request(server, **asked("for ever")), request(server, **asked("for ever")):
        for values in ({}, {"stream": True}):
            error = refusal(client, **values)
            assert (error.status_code, error.code) == (503, "overloaded")
            assert error.response.headers["retry-after"] == "1"
    for stream in streams:
        stream.close()
    settle(client)


def test_hang_ups_before_the_answer(client: openai.OpenAI, server: local.LocalServer) -> None:
    with request(server, **asked("for ever", n=ACTIVE)):
        deadline = time.monotonic() + 30
        while (error := late_or_refused(client)) is None:
            assert time.monotonic() < deadline, "the request was never begun"
        assert error.code == "timeout"  # it waits behind the two choices
    settle(client)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--api-keys", "KEYS"), 2, "also pass --openai-port"),
        (("--openai-traces",), 2, "also pass --openai-port"),
        (("--openai-port", "9000", "--api-keys", "KEYS"), 4, "KEYS: has no API key"),
        (("--openai-port", "9000", "--api-keys", "NOWHERE"), 4, "NOWHERE: cannot be read"),
    ],
    ids=["no endpoint", "nothing to trace", "no keys", "no file"],
)
def test_options_of_serve(tmp_path: Path, options: tuple[str, ...], code: int, said: str) -> None:
    (tmp_path / "KEYS").touch()
    done = subprocess.run(
        [sys.executable, "-m", "nemotron_deploy", "serve", "bundle", *options],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_streams_end_when_the_server_stops(server: local.LocalServer) -> None:
    """The last test of the module: it stops the server, which refuses new requests meanwhile."""
    with openai.OpenAI(base_url=server.openai_url, api_key=KEY, max_retries=0) as client:
        stream = client.chat.completions.create(**asked("a long one"), stream=True)
        chunks = iter(stream)
        text = next(chunks).choices[0].delta.content
        with ThreadPoolExecutor(1) as pool:
            stopped = pool.submit(server.stop)
            for chunk in chunks:
                text += chunk.choices[0].delta.content or ""
            stopped.result(60)
    assert text == "step " * 100
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(str(server.openai_url), timeout=10)
