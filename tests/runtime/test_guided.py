"""Guided answers of the embedded model, which unguided writes nothing that has a form."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor
from nemotron_deploy.runtime.executors.scripted import ScriptedExecutor
from nemotron_deploy.runtime.generation import Failure, GenerationRequest
from nemotron_deploy.runtime.guides import Guide, any_object
from nemotron_deploy.runtime.service import Service
from nemotron_deploy.tests.runtime.clients import Channel, asking, chat

CONTEXT = 1024

FORM = {
    "type": "object",
    "properties": {
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
        "b": {"enum": ["x", "y"]},
    },
    "required": ["n", "b"],
    "additionalProperties": False,
}
GUIDE = Guide("response_format", schema=FORM)

TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": FORM}} for name in ("f", "g")
]
NAMED = {"type": "function", "function": {"name": "g"}}

OFF = {"enable_thinking": False}
HOT = {"temperature": 1.5, "seed": 7}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint with a chat template that has reasoning and tools."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for file in catalog.TINY.iterdir():
        shutil.copy(file, folder)
    shutil.copy(Path(__file__).with_name("nemotron.jinja"), folder / "chat_template.jinja")
    return folder


@pytest.fixture(scope="module")
def service(checkpoint: Path) -> Iterator[Service]:
    executor = ReferenceExecutor(checkpoint, max_active=4, max_tokens=CONTEXT)
    service = Service(executor, checkpoint, limit=8)
    yield service
    service.close(5)


def answered(service: Service, **fields: Any) -> Channel:
    channel = asking(service)(**{"prompt": "Monday", "max_tokens": 200, **HOT, **fields})
    assert channel.error is None
    return channel


def test_without_a_guide_there_is_no_json(service: Service) -> None:
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(answered(service, max_tokens=30).joined("text_output"))


@pytest.mark.parametrize("streaming", [True, False])
def test_content_conforms_to_the_schema(service: Service, streaming: bool) -> None:
    fields = chat("hi", arguments=OFF, return_stop_reason=True) | {"max_tokens": 200}
    channel = answered(service, **{**fields, "guide": GUIDE}, streaming=streaming)
    jsonschema.validate(json.loads(channel.joined("text_output")), FORM)
    assert channel.sent[-1]["finish_reason"] == "stop"
    assert channel.sent[-1]["stop_reason"] == ""


def test_any_object(service: Service) -> None:
    """Nothing bounds the texts in it, so it may be cut; what there is has the form."""
    channel = answered(service, guide=any_object("response_format"), max_tokens=20)
    assert channel.joined("text_output").startswith("{")


def test_the_most_likely_tokens_and_penalties_are_guided_too(service: Service) -> None:
    for fields in ({"top_k": 1}, {"top_p": 0.1}, {"frequency_penalty": 9.0, "top_k": 0}):
        text = answered(service, guide=GUIDE, **fields).joined("text_output")
        jsonschema.validate(json.loads(text), FORM)


def test_excluded_tokens_have_no_logprobs(service: Service) -> None:
    channel = answered(
        service, guide=GUIDE, logprobs=5, return_cumulative_logprob=True, streaming=True
    )

    def refused(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    rows = [
        row
        for sent in channel.sent
        if "logprobs" in sent
        for row in json.loads(sent["logprobs"], parse_constant=refused)["content"]
    ]
    assert (rows[0]["token"], rows[0]["logprob"]) == ("{", 0.0), "it is the only one"
    assert [top["token"] for top in rows[0]["top_logprobs"]] == ["{"]
    assert channel.sent[-1]["cumulative_logprob"] == pytest.approx(
        sum(row["logprob"] for row in rows), rel=1e-3
    )


@pytest.mark.parametrize("budget", [0, 6])
def test_reasoning_is_free_up_to_its_budget(service: Service, budget: int) -> None:
    fields = chat("hi", thinking_budget=budget) | {"guide": GUIDE, "max_tokens": 200}
    channel = answered(service, **fields)
    jsonschema.validate(json.loads(channel.joined("text_output")), FORM)
    assert channel.sent[-1]["num_reasoning_tokens"] == budget
    assert bool(channel.joined("reasoning_content")) is bool(budget)


def test_reasoning_without_an_end_uses_all_tokens(service: Service) -> None:
    fields = chat("hi") | {"guide": GUIDE, "max_tokens": 20}
    channel = answered(service, **fields)
    assert channel.joined("text_output") == ""
    assert channel.sent[-1]["finish_reason"] == "length"
    assert channel.sent[-1]["num_reasoning_tokens"] == 20


@pytest.mark.parametrize(
    ("choice", "names"), [("required", {"f", "g"}), (NAMED, {"g"})], ids=["required", "named"]
)
def test_a_call_that_must_be_made_is_made(
    service: Service, choice: object, names: set[str]
) -> None:
    for fields in ({"arguments": OFF, "streaming": True}, {"thinking_budget": 3}):
        given = chat("hi", tools=TOOLS, tool_choice=choice, **fields) | {"max_tokens": 110}
        channel = answered(service, **given)
        assert channel.joined("text_output") == ""
        calls = channel.calls()
        whole = calls if channel.sent[-1]["finish_reason"] == "tool_calls" else calls[:1]
        assert whole
        assert choice == "required" or len(calls) == 1
        for name, arguments in whole:
            assert name in names
            jsonschema.validate(json.loads(arguments), FORM)


def test_a_tool_or_the_format(service: Service) -> None:
    guide = replace(GUIDE, tools={"f": FORM})
    given = chat("hi", tools=TOOLS[:1], arguments=OFF) | {"guide": guide, "max_tokens": 110}
    channel = answered(service, **given)
    text, calls = channel.joined("text_output"), channel.calls()
    assert bool(text) is not bool(calls)
    jsonschema.validate(json.loads(text or calls[0][1]), FORM)


def test_max_tokens_and_stop_texts_cut_the_form(service: Service) -> None:
    whole = answered(service, guide=GUIDE).joined("text_output")
    cut = answered(service, guide=GUIDE, max_tokens=5, return_finish_reason=True)
    assert cut.sent[-1]["finish_reason"] == "length"
    assert whole.startswith(cut.joined("text_output"))
    stopped = answered(service, guide=GUIDE, stop=(', "b',), return_stop_reason=True)
    assert stopped.sent[-1]["stop_reason"] == ', "b'
    assert stopped.joined("text_output") == whole.partition(', "b')[0]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"guide": Guide("response_format", schema={"not": {}})}, "response_format cannot be used"),
        (
            {"guide": Guide("response_format", schema={"type": "integer", "multipleOf": 999983})},
            "response_format cannot be used: its grammar cannot be compiled: it ",
        ),
        (
            {"guide": Guide("response_format", schema={"enum": ["x" * 70_000]})},
            "response_format needs a grammar of more than 65536 bytes",
        ),
        ({"guide": GUIDE, "ignore_eos": True}, "response_format and ignore_eos exclude each other"),
    ],
    ids=["keyword", "large", "long", "endless"],
)
def test_what_cannot_be_guided_is_refused(
    service: Service, fields: dict[str, Any], said: str
) -> None:
    channel = asking(service)(prompt="Monday", **fields)
    assert channel.error is not None
    assert channel.error[0].startswith(said)
    assert channel.error[1] is Failure.INVALID


def test_a_form_that_becomes_too_complex_fails_alone(service: Service) -> None:
    names = {f"p{i}": {"type": "string", "maxLength": 1} for i in range(900)}
    guide = Guide("response_format", schema={"type": "object", "properties": names})
    channel = asking(service)(prompt="Monday", guide=guide, max_tokens=200, **HOT)
    assert channel.error is not None
    assert "the grammar cannot be followed at this point: " in channel.error[0]
    assert channel.error[1] is Failure.INVALID
    assert answered(service, guide=GUIDE).sent


class SlowCompiler(ScriptedExecutor):
    """Compiles a guide only when it is told to."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.asked, self.told = threading.Event(), threading.Event()

    @property
    def can_guide(self) -> bool:
        return True

    def compile_guide(self, grammar: str) -> object:
        self.asked.set()
        assert self.told.wait(60)
        return grammar


def test_compiling_a_guide_keeps_no_other_request_waiting(checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "answers.jsonl"
    script.write_text('{"when": "", "pieces": ["hello"]}\n')
    executor = SlowCompiler(checkpoint, script, max_active=4, max_tokens=CONTEXT)
    service = Service(executor, checkpoint, limit=16)
    guided: Sequence[Channel] = [Channel() for _ in range(8)]
    for channel in guided:
        service.submit("", lambda: GenerationRequest("x", guide=GUIDE), channel)
    assert executor.asked.wait(60)
    for _ in range(4):
        assert asking(service)(prompt="x").joined("text_output") == "hello"
    assert not any(channel.sent for channel in guided)
    executor.told.set()
    for channel in guided:
        channel.wait()
        assert channel.joined("text_output") == "hello"
    service.close(5)
