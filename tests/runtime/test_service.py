"""Requests through prompts, executors and the text stage, without a server."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor
from nemotron_deploy.runtime.executors.scripted import ScriptedExecutor
from nemotron_deploy.runtime.generation import Executor, Failure, GenerationRequest
from nemotron_deploy.runtime.guides import Guide, any_object
from nemotron_deploy.runtime.service import Service
from nemotron_deploy.runtime.vocabulary import CheckpointVocabulary
from nemotron_deploy.tests.runtime.clients import Channel, asking, chat

CONTEXT = 512


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded checkpoint with a chat template that has reasoning and tools."""
    folder = tmp_path_factory.mktemp("checkpoint")
    for file in catalog.TINY.iterdir():
        shutil.copy(file, folder)
    shutil.copy(Path(__file__).with_name("nemotron.jinja"), folder / "chat_template.jinja")
    return folder


SCRIPT = [
    {"when": "WEATHER", "pieces": [
        "Let me", " see.</th", "ink>\n", "<tool_call>\n<function=f>\n<parameter=a>\n", "日", "本",
        "\n</parameter>\n</function>\n</tool_call>",
    ]},
    {"when": "SLOW", "pieces": ["a"] * 10**4, "pace_ms": 1},
    {"when": "system\n", "pieces": ["hm</think>", "Hello", ", ", "you!"]},
    {"when": "raw", "pieces": ["x</think>", "y<tool_call>"]},
]  # fmt: skip


@pytest.fixture(scope="module")
def scripted(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    script = tmp_path_factory.mktemp("script") / "answers.jsonl"
    script.write_text("\n".join(map(json.dumps, SCRIPT)))
    executor = ScriptedExecutor(checkpoint, script, max_active=4, max_tokens=CONTEXT)
    service = Service(executor, checkpoint, limit=8)
    yield service
    service.close(5)


@pytest.fixture(scope="module")
def reference() -> Iterator[Service]:
    executor = ReferenceExecutor(catalog.TINY, max_active=4, max_tokens=CONTEXT)
    service = Service(executor, catalog.TINY, limit=8)
    yield service
    service.close(5)


TOOLS = [{"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}}]


@pytest.mark.parametrize("streaming", [True, False])
def test_a_call_of_a_tool(scripted: Service, streaming: bool) -> None:
    channel = asking(scripted)(**chat("WEATHER", tools=TOOLS, streaming=streaming))
    assert channel.error is None
    assert len(channel.sent) == (8 if streaming else 1)
    assert channel.joined("text_output") == ""
    assert channel.joined("reasoning_content") == "Let me see."
    assert channel.calls() == [("f", '{"a": "日本"}')]
    last = channel.sent[-1]
    assert last["finish_reason"] == "tool_calls"
    assert (last["num_output_tokens"], last["num_reasoning_tokens"]) == (8, 2)


def test_the_form_of_calls_is_openais(scripted: Service) -> None:
    whole = asking(scripted)(**chat("WEATHER", tools=TOOLS))
    (call,) = json.loads(whole.sent[0]["tool_calls"])
    assert call.pop("id").startswith("call_")
    assert call == {"type": "function", "function": {"name": "f", "arguments": '{"a": "日本"}'}}
    streamed = asking(scripted)(**chat("WEATHER", tools=TOOLS, streaming=True))
    first, *others = [
        piece for sent in streamed.sent for piece in json.loads(sent.get("tool_calls", "[]"))
    ]
    assert first.pop("id").startswith("call_")
    assert first == {"index": 0, "type": "function", "function": {"name": "f", "arguments": ""}}
    assert all(set(piece) == {"index", "function"} for piece in others)


def test_without_tools_or_with_tool_choice_none_markers_are_text(scripted: Service) -> None:
    for fields in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        channel = asking(scripted)(**chat("WEATHER", **fields))
        assert channel.joined("reasoning_content") == "Let me see."
        assert channel.joined("text_output").startswith("<tool_call>\n<function=f>")
        assert channel.calls() == []
        assert channel.sent[-1]["finish_reason"] == "stop"


def test_thinking_off(scripted: Service) -> None:
    channel = asking(scripted)(**chat("hi", arguments={"enable_thinking": False}))
    assert channel.joined("text_output") == "hmHello, you!"
    assert "reasoning_content" not in channel.sent[-1]


def test_a_plain_prompt_is_answered_with_plain_text(scripted: Service) -> None:
    channel = asking(scripted)(prompt="raw", streaming=True)
    assert channel.joined("text_output") == "x</think>y<tool_call>"
    assert "num_reasoning_tokens" not in channel.sent[-1]
    echoed = asking(scripted)(prompt="raw", echo_prompt=True)
    assert echoed.joined("text_output") == "rawx</think>y<tool_call>"


def test_a_budget_is_kept_by_playing_on_after_the_scripts_reasoning(scripted: Service) -> None:
    channel = asking(scripted)(**chat("WEATHER", tools=TOOLS, thinking_budget=1))
    assert channel.joined("reasoning_content") == "Let me"
    assert channel.calls() == [("f", '{"a": "日本"}')]


def test_a_prompt_of_tokens(scripted: Service) -> None:
    tokens = scripted_tokens("raw")
    channel = asking(scripted)(input_ids=tokens)
    assert channel.joined("text_output") == "x</think>y<tool_call>"
    assert channel.sent[-1]["num_input_tokens"] == len(tokens)
    refused = asking(scripted)(input_ids=(5, 512))
    assert refused.error == (
        "input_ids holds 512; token numbers are 0 to 511", Failure.INVALID,
    )  # fmt: skip


def scripted_tokens(text: str) -> tuple[int, ...]:
    return CheckpointVocabulary(catalog.TINY).encode(text)


def test_prompts_that_no_answer_is_for(scripted: Service) -> None:
    channel = asking(scripted)(prompt="nothing")
    assert channel.error is not None
    assert channel.error[1] is Failure.INVALID
    assert "no answer of the script" in channel.error[0]


def test_answers_take_their_pace_side_by_side(scripted: Service) -> None:
    slow = Channel()
    request = GenerationRequest("SLOW", max_tokens=480, streaming=True)
    scripted.submit("slow-and-not-guessed", lambda: request, slow)
    quick = asking(scripted)(prompt="raw")
    assert quick.joined("text_output")
    assert scripted.cancel("slow-and-not-guessed")
    slow.wait()
    assert slow.error is not None
    assert slow.error[1] is Failure.CANCELLED


def test_what_no_executor_can_guide_is_refused(scripted: Service) -> None:
    for guide in (any_object("response_format"), Guide("tool_choice", tools={"f": {}})):
        channel = asking(scripted)(prompt="raw", guide=guide)
        assert channel.error is not None
        assert channel.error[1] is Failure.INVALID
        assert f"{guide.source}: this executor cannot guide" in channel.error[0]


def test_limit_counts_prompt_and_answer(reference: Service, scripted: Service) -> None:
    length = len(scripted_tokens("Monday"))
    assert asking(reference)(prompt="Monday", max_tokens=CONTEXT - length).error is None
    refused = asking(reference)(prompt="Monday", max_tokens=CONTEXT - length + 1)
    assert refused.error is not None
    assert f"has {length} tokens" in refused.error[0]
    assert f"at most {CONTEXT}" in refused.error[0]
    too_long = asking(scripted)(**chat("x " * CONTEXT))
    assert too_long.error is not None
    assert too_long.error[1] is Failure.INVALID


def test_stop_words_end_the_answer_before_them(reference: Service) -> None:
    whole = asking(reference)(prompt="Monday", max_tokens=24, ignore_eos=True)
    text = whole.joined("text_output")
    word = text[6:9]
    stopped = asking(reference)(
        prompt="Monday", max_tokens=24, ignore_eos=True, stop=(word,), return_stop_reason=True,
    )  # fmt: skip
    assert stopped.joined("text_output") == text[: text.index(word)]
    assert stopped.sent[-1]["stop_reason"] == word


@pytest.mark.parametrize("name", ["reference", "scripted"])
def test_tokens_flow_while_a_prompt_is_tokenized(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    service: Service = request.getfixturevalue(name)
    tokenizing, finish = threading.Event(), threading.Event()
    encode = CheckpointVocabulary.encode

    def slow(self: CheckpointVocabulary, text: str, **fields: Any) -> tuple[int, ...]:
        if text == "raw and long":
            tokenizing.set()
            assert finish.wait(120)
        return encode(self, text, **fields)

    monkeypatch.setattr(CheckpointVocabulary, "encode", slow)
    long = Channel()
    service.submit("", lambda: GenerationRequest("raw and long", max_tokens=2), long)
    assert tokenizing.wait(120)
    assert asking(service)(prompt="raw", max_tokens=2).error is None
    assert not long.sent
    finish.set()
    long.wait()
    assert long.error is None


def test_an_absent_seed_is_a_random_one(reference: Service) -> None:
    def sample(**fields: Any) -> str:
        wanted = {"prompt": "The", "max_tokens": 24, "temperature": 1.5, "ignore_eos": True}
        return asking(reference)(**wanted, **fields).joined("text_output")

    assert sample(seed=5) == sample(seed=5)
    assert len({sample() for _ in range(4)}) > 1


def test_without_a_request_for_sampling_the_checkpoints_defaults_hold(
    tmp_path: Path, reference: Service
) -> None:
    """The embedded checkpoint takes the likeliest token; with other defaults it samples."""
    assert len({asking(reference)(prompt="The").joined("text_output") for _ in range(2)}) == 1
    for file in catalog.TINY.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 11], "do_sample": True, "temperature": 50.0})
    )
    executor: Executor = ReferenceExecutor(tmp_path, max_active=1, max_tokens=CONTEXT)
    service = Service(executor, tmp_path, limit=2)
    try:
        assert executor.answers.end_tokens == {2, 11}
        texts = [
            asking(service)(prompt="The", ignore_eos=True).joined("text_output") for _ in range(3)
        ]
        greedy = asking(service)(prompt="The", ignore_eos=True, top_k=1).joined("text_output")
    finally:
        service.close(5)
    assert len(set(texts)) == 3
    assert greedy == asking(reference)(prompt="The", ignore_eos=True).joined("text_output")


def test_logprobs_have_openais_form(reference: Service) -> None:
    channel = asking(reference)(prompt="Monday", max_tokens=3, logprobs=2, ignore_eos=True)
    rows = json.loads(channel.sent[0]["logprobs"])["content"]
    assert "".join(row["token"] for row in rows) == channel.joined("text_output")
    for row in rows:
        assert row["bytes"] == list(row["token"].encode())
        assert row["top_logprobs"][0]["logprob"] == row["logprob"]
        assert len(row["top_logprobs"]) == 2


def test_after_the_end_nothing_is_accepted(checkpoint: Path, tmp_path: Path) -> None:
    script = tmp_path / "s.jsonl"
    script.write_text('{"when": "", "pieces": ["a"], "pace_ms": 3600000}')
    service = Service(ScriptedExecutor(checkpoint, script, max_active=1), checkpoint, limit=2)
    channel = Channel()
    service.submit("", lambda: GenerationRequest("x"), channel)
    service.close(5)
    channel.wait()
    assert channel.error == ("the model is shutting down", Failure.UNAVAILABLE)
    assert not service.ready
