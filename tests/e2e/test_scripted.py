"""Every case of the parsers as a served answer: the real tritonserver plays a script.

One server for all of it. The numbers are those of the cases in tests/runtime/test_answers.py.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc.aio as grpc
from tritonclient.utils import InferenceServerException

from nemotron_deploy.tests.e2e.scripted_bundle import scripted_bundle
from nemotron_deploy.tests.e2e.streams import stream
from nemotron_deploy.triton_repo import local

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(local.unavailable() is not None, reason=str(local.unavailable())),
]

TEMPLATE = Path(__file__).parents[1] / "runtime" / "nemotron.jinja"

TYPES = {"a": "string", "n": "integer", "b": "boolean", "o": "object"}
PARAMETERS = {"type": "object", "properties": {n: {"type": kind} for n, kind in TYPES.items()}}
TOOLS = [
    {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS}}
]


def call(function: str = "f", **values: str) -> str:
    parameters = "".join(f"<parameter={n}>\n{v}\n</parameter>\n" for n, v in values.items())
    return f"<tool_call>\n<function={function}>\n{parameters}</function>\n</tool_call>"


ONE = call(a="1")
PROSE = "the token <tool_call> means <"

# Reasoning, content, calls with their arguments (as text where they are cut), finish.
CASES: dict[str, tuple[str, str, str, list[tuple[str, Any]], str]] = {
    "1": ("x</think>y", "x", "y", [], "stop"),
    "2": ("x</thing>", "x</thing>", "", [], "stop"),
    "3": ("x <", "x <", "", [], "stop"),
    "4": ("x</think>\n\ny", "x", "y", [], "stop"),
    "6": (f"x{ONE}", "x", "", [("f", {"a": "1"})], "tool_calls"),
    "17": (
        f"</think>{ONE}\n{call(n='2')}\n",
        "", "", [("f", {"a": "1"}), ("f", {"n": 2})], "tool_calls",
    ),
    "18": (f"x</think>text\n{ONE}", "x", "text", [("f", {"a": "1"})], "tool_calls"),
    "19": (f"x</think>{ONE}\ntext", "x", "text", [("f", {"a": "1"})], "tool_calls"),
    "22": (
        "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>",
        "", "", [("f", {"a": "1"})], "tool_calls",
    ),
    "24": (f"</think>{call('g', a='1')}", "", "", [("g", {"a": "1"})], "tool_calls"),
    "25": (
        ONE.replace("</function>", "<parameter=a>\n2\n</parameter>\n</function>"),
        "", "", [("f", {"a": "2"})], "tool_calls",
    ),
    "26": (call(), "", "", [("f", {})], "tool_calls"),
    "29": ("<think>\nx</think>y", "x", "y", [], "stop"),
    "30": ("", "", "", [], "stop"),
    **{
        f"{number}-{i}": (call(**given), "", "", [("f", expected)], "tool_calls")
        for i, (number, given, expected) in enumerate(
            [
                (7, {"a": " line1\nline2\n"}, {"a": " line1\nline2\n"}),
                (8, {"a": "if x</parameter_y>"}, {"a": "if x</parameter_y>"}),
                (9, {"a": "<b>1 & 2</b> &lt;"}, {"a": "<b>1 & 2</b> &lt;"}),
                (10, {"a": '{"k": 1}'}, {"a": '{"k": 1}'}),
                (11, {"o": '{"k": [1, {"z": "}"}]}'}, {"o": {"k": [1, {"z": "}"}]}}),
                (12, {"o": "{'k': True}"}, {"o": {"k": True}}),
                (13, {"n": "007"}, {"n": 7}),
                (13, {"n": "1e3"}, {"n": 1000}),
                (13, {"n": "seven"}, {"n": "seven"}),
                (14, {"b": "True"}, {"b": True}),
                (14, {"b": "false"}, {"b": False}),
                (14, {"b": "yes"}, {"b": "yes"}),
                (15, {"a": "null"}, {"a": "null"}),
                (16, {"a": "日本語 😀"}, {"a": "日本語 😀"}),
            ]
        )
    },
}  # fmt: skip

OTHERS = {
    "cut": "xyz</think>text",
    "cut-call": f"x</think>{call(a='some text')}",
    "off": "y</think>z",
    "plain": "plain text",
    "prose": f"x</think>{PROSE}",
    "stop": "END</think>The END of it.",
}
"""Answers for requests that differ in more than the answer."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[local.LocalServer]:
    """A bundle made by hand; each answer comes byte by byte, and as one piece for a WHOLE one."""
    answers = []
    for name, text in {**{name: case[0] for name, case in CASES.items()}, **OTHERS}.items():
        pieces = [{"hex": f"{byte:02x}"} for byte in text.encode()]
        answers.append({"when": f"BYTES [{name}]", "pieces": pieces})
        answers.append({"when": f"WHOLE [{name}]", "pieces": [text] if text else []})
    bundle = scripted_bundle(tmp_path_factory.mktemp("bundle"), answers, 8, TEMPLATE)
    with local.LocalServer(bundle.repository, executor="scripted", script=bundle.script) as running:
        running.wait_ready()
        yield running


async def _responses(url: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    """The tensors of each response. Raises what the server says."""
    async with grpc.InferenceServerClient(url) as client:
        return [response async for response in stream(client, **values)]


class Answer:
    """What a request got, joined."""

    def __init__(self, server: local.LocalServer, **values: Any) -> None:
        self.responses = asyncio.run(_responses(server.grpc_url, values))
        self.last = self.responses[-1]
        self.content = self._joined("text_output")
        self.reasoning = self._joined("reasoning_content")
        self.finish = self.last["finish_reason"].decode() if "finish_reason" in self.last else ""
        self.calls: list[tuple[str, str]] = []
        for response in self.responses:
            for piece in json.loads(response.get("tool_calls", b"[]")):
                if "name" in piece["function"]:
                    self.calls.append((piece["function"]["name"], ""))
                name, given = self.calls[-1]
                self.calls[-1] = (name, given + piece["function"]["arguments"])

    def _joined(self, name: str) -> str:
        return b"".join(response.get(name, b"") for response in self.responses).decode()


def chat(name: str, how: str, tools: bool = True, **values: Any) -> dict[str, Any]:
    """The inputs of a request for the answer `name`, which comes byte by byte or whole."""
    messages = json.dumps([{"role": "user", "content": f"{how} [{name}]"}])
    given = {"tools": json.dumps(TOOLS)} if tools else {}
    return {"messages": messages, "streaming": how == "BYTES"} | given | values


@pytest.mark.parametrize("how", ["BYTES", "WHOLE"])
@pytest.mark.parametrize("name", CASES)
def test_cases(server: local.LocalServer, name: str, how: str) -> None:
    text, reasoning, content, calls, finish = CASES[name]
    answer = Answer(server, **chat(name, how))
    assert (answer.reasoning, answer.content, answer.finish) == (reasoning, content, finish)
    assert [(called, json.loads(given)) for called, given in answer.calls] == calls
    tokens = len(text.encode()) if how == "BYTES" else bool(text)
    assert answer.last["num_output_tokens"] == tokens + 1
    assert len(answer.responses) == (tokens + 1 if how == "BYTES" else 1)


@pytest.mark.parametrize("streaming", [True, False])
def test_what_the_limit_cuts(server: local.LocalServer, streaming: bool) -> None:
    """Cases 5, 20 and 21: the reasoning, a value of a call, and a call before its name."""
    limits: Any = {"streaming": streaming, "sampling_param_max_tokens": 2}
    answer = Answer(server, **chat("cut", "BYTES") | limits)
    assert (answer.reasoning, answer.content, answer.finish) == ("xy", "", "length")
    whole = OTHERS["cut-call"]
    limits["sampling_param_max_tokens"] = whole.index(" text")
    answer = Answer(server, **chat("cut-call", "BYTES") | limits)
    assert (answer.content, answer.finish) == ("", "length")
    assert answer.calls == [("f", '{"a": "some')]
    limits["sampling_param_max_tokens"] = whole.index("f>")
    answer = Answer(server, **chat("cut-call", "BYTES") | limits)
    assert (answer.reasoning, answer.content, answer.calls) == ("x", "", [])
    assert answer.finish == "length"


@pytest.mark.parametrize("how", ["BYTES", "WHOLE"])
def test_thinking_off_and_tools_off(server: local.LocalServer, how: str) -> None:
    """Cases 27, 28 and 23."""
    off: Any = {"chat_template_kwargs": '{"enable_thinking": false}'}
    for name, content in (("off", "yz"), ("plain", "plain text")):
        answer = Answer(server, **chat(name, how, **off))
        assert (answer.reasoning, answer.content, answer.finish) == ("", content, "stop")
    for values in (chat("prose", how, tools=False), chat("prose", how, tool_choice='"none"')):
        answer = Answer(server, **values)
        assert (answer.reasoning, answer.content, answer.calls) == ("x", PROSE, [])


@pytest.mark.parametrize("how", ["BYTES", "WHOLE"])
def test_stop_texts_end_the_content(server: local.LocalServer, how: str) -> None:
    values = chat("stop", how, sampling_param_stop=["END"], return_stop_reason=True)
    answer = Answer(server, **values)
    assert (answer.reasoning, answer.content, answer.finish) == ("END", "The ", "stop")
    assert answer.last["stop_reason"] == b"END"


def test_a_budget_ends_the_reasoning(server: local.LocalServer) -> None:
    answer = Answer(server, **chat("cut", "BYTES", thinking_budget=2))
    assert (answer.reasoning, answer.content, answer.finish) == ("xy", "text", "stop")
    assert answer.last["num_reasoning_tokens"] == 2


def test_a_plain_prompt_has_a_plain_answer(server: local.LocalServer) -> None:
    answer = Answer(server, text_input="BYTES [prose]", sampling_param_max_tokens=100)
    assert answer.content == OTHERS["prose"]
    assert "reasoning_content" not in answer.last


# What the functions of Triton's OpenAI frontend make of OpenAI's requests: its code at
# triton-inference-server/server @e1db8a6 was run for these, with the prompt exchanged.
COUNTED = {"return_num_input_tokens": True, "return_num_output_tokens": True}
DEFAULTS = {
    "frequency_penalty": 0, "ignore_eos": False, "n": 1, "presence_penalty": 0, "temperature": 0.7,
    "top_p": 1, "max_tokens": 16,
}  # fmt: skip


def from_frontend(stream: bool, without_prompt: bool = True, **parameters: Any) -> dict[str, Any]:
    """A request of `--backend vllm`."""
    return {
        "return_logprobs": "logprobs" in parameters,
        "text_input": "BYTES [prose]",
        "stream": stream,
        "exclude_input_in_output": without_prompt,
        "sampling_parameters": json.dumps(DEFAULTS | parameters),
        **COUNTED,
    }


@pytest.mark.parametrize(
    ("request_", "content", "tokens"),
    [
        (from_frontend(False), "x</think>the tok", 16),
        (from_frontend(True), "x</think>the tok", 16),
        (
            from_frontend(
                True, frequency_penalty=0.5, presence_penalty=0.25, seed=3, stop=["n", "z"],
                top_p=0.9, max_tokens=9,
            ),
            "x</thi", 7,
        ),
        (from_frontend(False, False, max_tokens=5), "BYTES [prose]x</th", 5),
        (from_frontend(True, False, stop="k", temperature=0.0, logprobs=1), "x</thin", 8),
    ],
    ids=["chat", "streamed chat", "chat with all", "completion with echo", "completion with all"],
)  # fmt: skip
def test_requests_of_tritons_own_frontend(
    server: local.LocalServer, request_: dict[str, Any], content: str, tokens: int
) -> None:
    answer = Answer(server, **request_)
    assert answer.content == content
    assert answer.last["num_output_tokens"] == tokens
    assert answer.last["num_input_tokens"] > 1


def test_requests_of_the_frontend_for_tensorrt_llm_are_refused(server: local.LocalServer) -> None:
    """Without `--backend vllm`, all its tensors have a second dimension, which this model has not:
    Triton says so by name, before the model sees the request."""
    values: dict[str, Any] = {
        "text_input": [["WHOLE [prose]"]], "stream": [[True]], "max_tokens": [[9]],
        "stop_words": [["n", "z"]], "top_p": [[0.9]], "frequency_penalty": [[0.5]],
        "presence_penalty": [[0.25]], "seed": [[3]], "temperature": [[0.7]],
        **{name: [[value]] for name, value in COUNTED.items()},
    }  # fmt: skip
    with pytest.raises(InferenceServerException, match=r"unexpected shape for input '\w+'"):
        Answer(server, **values)
    # The same values without that dimension are understood.
    flat = {name: value[0] for name, value in values.items()}
    assert Answer(server, **flat | {"text_input": "BYTES [prose]"}).content == "x</thi"


def test_conversations_over_http(server: local.LocalServer) -> None:
    body = chat("6", "WHOLE") | {"streaming": False}
    request = urllib.request.Request(
        f"{server.http_url}/v2/models/tiny/generate", data=json.dumps(body).encode()
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        answer = json.load(response)
    assert (answer["reasoning_content"], answer["text_output"]) == ("x", "")
    assert json.loads(answer["tool_calls"])[0]["function"]["arguments"] == '{"a": "1"}'
    assert answer["finish_reason"] == "tool_calls"


def test_logprobs_travel_as_json(server: local.LocalServer) -> None:
    answer = Answer(server, **chat("1", "WHOLE", logprobs=0))
    (row, end) = json.loads(answer.last["logprobs"])["content"]
    assert (row["token"], row["logprob"], row["top_logprobs"]) == ("x</think>y", 0.0, [])
    assert bytes(row["bytes"]) == b"x</think>y"
    assert end["token"] == ""


USER = '[{"role": "user", "content": "BYTES [1]"}]'


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"messages": USER, "text_input": "x"}, "text_input and messages are both given"),
        ({"text_input": "x", "tools": "[]"}, "tools needs messages"),
        ({"messages": "[{"}, "messages is not valid JSON"),
        ({"messages": '[{"role": "robot"}]'}, "role must be one of"),
        ({"messages": USER, "tool_choice": '"any"'}, "tool_choice must be one of"),
        (
            {"messages": USER, "tools": json.dumps(TOOLS), "tool_choice": '"required"'},
            "tool_choice: this executor cannot guide",
        ),
        (
            {"messages": USER, "response_format": '{"type": "json_object"}'},
            "response_format: this executor cannot guide",
        ),
        ({"messages": USER, "chat_template_kwargs": '{"x": 1}'}, "it has no variable 'x'"),
        ({"text_input": "x" * 70_000}, "has 70000 bytes; the limit is 65536"),
        ({"input_ids": [1, 512]}, "input_ids holds 512; token numbers are 0 to 511"),
        ({"text_input": "unknown"}, "no answer of the script"),
    ],
)  # fmt: skip
def test_refusals(server: local.LocalServer, values: dict[str, Any], said: str) -> None:
    with pytest.raises(InferenceServerException, match=said):
        Answer(server, **values)
    assert Answer(server, **chat("1", "BYTES")).content == "y"
