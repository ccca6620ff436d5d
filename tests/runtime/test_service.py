"""Requests through prompts, executors and the text stage, without a server."""

from __future__ import annotations

import functools
import gc
import json
import shutil
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.executors.reference import ReferenceExecutor
from nemotron_deploy.runtime.executors.scripted import ScriptedExecutor
from nemotron_deploy.runtime.generation import Executor, Failure, GenerationRequest
from nemotron_deploy.runtime.guides import Guide, any_object
from nemotron_deploy.runtime.service import LONG_BYTES, LONG_WAITING, PROMPT_THREADS, Service
from nemotron_deploy.runtime.triton.parsing import parse_request
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


class Tokenizing:
    """Holds prompts that contain BLOCKED back while they are tokenized."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began, self._go_on = threading.Event(), threading.Event()
        self.prompts: list[int] = []
        encode = CheckpointVocabulary.encode

        def blocked(vocabulary: CheckpointVocabulary, text: str, **fields: Any) -> tuple[int, ...]:
            if "BLOCKED" in text:
                self.prompts.append(len(text))
                self.began.set()
                assert self._go_on.wait(120)
            return encode(vocabulary, text, **fields)

        monkeypatch.setattr(CheckpointVocabulary, "encode", blocked)

    def go_on(self) -> None:
        self._go_on.set()


@pytest.fixture
def tokenizing(monkeypatch: pytest.MonkeyPatch) -> Iterator[Tokenizing]:
    holding = Tokenizing(monkeypatch)
    yield holding
    holding.go_on()


@pytest.mark.parametrize("name", ["reference", "scripted"])
def test_others_are_prepared_and_answered_while_a_long_prompt_is_tokenized(
    name: str, request: pytest.FixtureRequest, tokenizing: Tokenizing
) -> None:
    """A stream that runs already gets its tokens, and more requests than there are threads for
    short prompts are answered; the long one has a thread of its own."""
    service: Service = request.getfixturevalue(name)
    long = Channel()
    prompt = "raw BLOCKED" + " x" * CONTEXT
    running = Channel(lambda number: submit_long() if number == 2 else None)

    def submit_long() -> None:
        service.submit("", lambda: GenerationRequest(prompt), long, size=LONG_BYTES + 1)
        assert tokenizing.began.wait(120)

    answer = GenerationRequest("raw", max_tokens=8, streaming=True, ignore_eos=True)
    service.submit("", lambda: answer, running)
    running.wait()
    assert (len(running.sent) > 2, running.error) == (True, None)
    for _ in range(PROMPT_THREADS + 1):
        assert asking(service)(prompt="raw", max_tokens=2).error is None
    assert not long.sent
    assert long.error is None
    tokenizing.go_on()
    long.wait()
    assert long.error is not None
    assert "together at most 512 are possible" in long.error[0]


def test_only_so_many_long_prompts_wait(checkpoint: Path, tokenizing: Tokenizing) -> None:
    """One is tokenized and `LONG_WAITING` wait. The next one is refused at once, as retriable;
    short prompts are not."""
    script = checkpoint.parent / "quick.jsonl"
    script.write_text('{"when": "", "pieces": ["a"]}')
    executor = ScriptedExecutor(checkpoint, script, max_active=4, max_tokens=CONTEXT)
    service = Service(executor, checkpoint, limit=100)
    waiting = [Channel() for _ in range(LONG_WAITING + 1)]
    try:
        for channel in waiting:
            service.submit(
                "", lambda: GenerationRequest("BLOCKED", max_tokens=2), channel, size=LONG_BYTES + 1
            )
        assert tokenizing.began.wait(120)
        refused = Channel()
        service.submit("", lambda: GenerationRequest("x"), refused, size=LONG_BYTES + 1)
        assert refused.error is not None
        assert refused.error[1] is Failure.UNAVAILABLE
        assert "requests of more than 262144 bytes are waiting already" in refused.error[0]
        assert asking(service)(prompt="x", max_tokens=2).error is None
        assert len(tokenizing.prompts) == 1
        tokenizing.go_on()
        for channel in waiting:
            channel.wait()
            assert channel.error is None
    finally:
        service.close(5)


def test_a_prompt_above_the_limit_in_bytes_is_never_tokenized(
    scripted: Service, tokenizing: Tokenizing
) -> None:
    """Over the executor's own way in, as the server reads requests."""
    text = np.array([b"BLOCKED" * (scripted.prompt_limit // 7 + 1)], dtype=object)
    channel = Channel()
    scripted.submit(
        "",
        lambda: parse_request({"text_input": text}, scripted.prompt_limit),
        channel,
        size=LONG_BYTES + 1,
    )
    channel.wait()
    assert channel.error is not None
    assert f"the limit is {scripted.prompt_limit}" in channel.error[0]
    assert not tokenizing.prompts


LEAVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "log-probabilities": {"logprobs": 2},
    "whole": {"streaming": False},
    "budget": chat("hi", thinking_budget=1),
}


@pytest.mark.parametrize("fields", LEAVERS.values(), ids=LEAVERS)
@pytest.mark.parametrize("moment", ["prompt", "first", "last"])
def test_a_request_may_be_cancelled_at_any_moment(
    reference: Service,
    tokenizing: Tokenizing,
    eventually: Callable[..., None],
    moment: str,
    fields: dict[str, Any],
) -> None:
    """While its prompt is tokenized, with its first token or with its last one: nothing is left,
    and the next request is answered as ever."""
    alone = asking(reference)(prompt="Monday", max_tokens=8).sent
    name = "an-id-that-nobody-guesses"
    wanted: dict[str, Any] = {"prompt": "Monday", "max_tokens": 8, "streaming": True}
    wanted |= {"ignore_eos": True} | fields
    if moment == "prompt" and "conversation" not in fields:
        wanted["prompt"] = "BLOCKED"
    at = {"prompt": 0, "first": 1, "last": 8 if wanted["streaming"] else 1}[moment]
    channel = Channel(lambda number: reference.cancel(name) if number == at else None)
    reference.submit(name, lambda: GenerationRequest(**wanted), channel)
    if wanted["prompt"] == "BLOCKED":
        assert tokenizing.began.wait(120)
    if moment == "prompt":
        reference.cancel(name)
        tokenizing.go_on()
    channel.wait()
    eventually(lambda: reference.live == 0 and reference.load.running == 0)
    assert asking(reference)(prompt="Monday", max_tokens=8).sent == alone


def test_requests_that_have_ended_are_forgotten(
    scripted: Service, eventually: Callable[..., None]
) -> None:
    """However they end, nothing refers to their client any more."""
    ends: dict[str, dict[str, Any]] = {
        "answered": {"prompt": "raw", "streaming": True},
        "refused": {"prompt": "nothing"},
        "cancelled": {"prompt": "SLOW", "streaming": True, "max_tokens": 480},
        "late": {"prompt": "SLOW", "streaming": True, "max_tokens": 480},
    }
    clients = []
    for name, fields in ends.items():
        channel = Channel()
        timeout = 0.01 if name == "late" else None
        request_id = f"{name}-and-not-guessed"
        read = functools.partial(GenerationRequest, **fields)
        scripted.submit(request_id, read, channel, timeout=timeout)
        if name == "cancelled":
            scripted.cancel(request_id)
        channel.wait()
        clients.append(weakref.ref(channel))
    del channel

    def forgotten() -> bool:
        # Threads that are idle hold the last request that they saw.
        last = Channel()
        scripted.submit("", lambda: GenerationRequest("SLOW", 480), last, timeout=0.01)
        last.wait()
        gc.collect()
        return all(client() is None for client in clients)

    eventually(forgotten)


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
