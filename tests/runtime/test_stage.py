"""The text stage: tokens in, an answer out, the same whether streamed or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.model import catalog
from nemotron_deploy.runtime.answers import Start
from nemotron_deploy.runtime.executors.scripted import ScriptVocabulary
from nemotron_deploy.runtime.generation import (
    Failure,
    GenerationRequest,
    Step,
    TokenRequest,
    TokenSink,
    TokenStep,
    Usage,
    Vocabulary,
)
from nemotron_deploy.runtime.guides import Guide
from nemotron_deploy.runtime.stage import Prepared, TextStage
from nemotron_deploy.runtime.vocabulary import CheckpointVocabulary

END = 0


class Player:
    """Generates given tokens; after a resumed prompt, what is given as `rest`."""

    def __init__(self, tokens: Iterable[int], rest: Iterable[int] = (), width: int = 1) -> None:
        self.tokens, self.rest, self.width = list(tokens), list(rest), width
        self.requests: list[TokenRequest] = []
        self.generated = 0

    def submit(self, request: TokenRequest, sink: TokenSink) -> None:
        self.requests.append(request)
        tokens = [*(self.rest if request.resumed else self.tokens), END]
        if END in request.end_tokens:
            tokens = tokens[: tokens.index(END) + 1]
        finish = "stop"
        if len(tokens) > request.max_tokens or END not in request.end_tokens:
            tokens, finish = tokens[: request.max_tokens], "length"
        for at in range(0, len(tokens), self.width):
            if sink.done:
                return
            part = tuple(tokens[at : at + self.width])
            self.generated += len(part)
            last = at + self.width >= len(tokens)
            logprobs = [{token: -1.0, END: -0.5} for token in part]
            sink.step(TokenStep(part, finish if last else None, -1.0 * (at + 1), logprobs))


class Recorder:
    """The sink of an answer."""

    def __init__(self) -> None:
        self.steps: list[Step] = []

    @property
    def done(self) -> bool:
        return bool(self.steps) and self.steps[-1].finish is not None

    def step(self, step: Step) -> None:
        assert not self.done
        self.steps.append(step)

    def fail(self, message: str, failure: Failure) -> None:
        raise AssertionError(message)

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def reasoning(self) -> str:
        return "".join(step.reasoning for step in self.steps)


def answered(
    pieces: Iterable[str | bytes],
    rest: Iterable[str | bytes] = (),
    *,
    start: Start = Start.REASONING,
    max_tokens: int = 1000,
    width: int = 1,
    tools: dict[str, Any] | None = None,
    **fields: Any,
) -> tuple[Recorder, Player]:
    """What a client gets where the model writes `pieces`, each of them a token."""
    first, second = ([p.encode() if isinstance(p, str) else p for p in x] for x in (pieces, rest))
    vocabulary = ScriptVocabulary([*first, *second])
    player = Player(vocabulary.tokens(first), vocabulary.tokens(second), width)
    recorder = Recorder()
    request = GenerationRequest("x", **fields)
    prepared = Prepared(
        request, "x", (7, 8), max_tokens, start, tools or {}, (90, 91, 92), "whole", "content"
    )
    TextStage(prepared, vocabulary, player.submit, recorder).start()
    assert recorder.done
    return recorder, player


def test_every_token_gives_one_step_and_the_last_one_the_counts() -> None:
    recorder, _ = answered(["a ", "</th", "ink>", "b", "c"])
    assert [(s.reasoning, s.text) for s in recorder.steps] == [
        ("a ", ""), ("", ""), ("", ""), ("", "b"), ("", "c"), ("", ""),
    ]  # fmt: skip
    assert [s.finish for s in recorder.steps] == [None] * 5 + ["stop"]
    assert recorder.steps[-1].usage == Usage(prompt=2, answer=6, reasoning=2)


def test_an_answer_that_ends_at_once_has_one_token() -> None:
    recorder, _ = answered([])
    (step,) = recorder.steps
    assert (step.finish, step.text, step.reasoning, step.usage) == ("stop", "", "", Usage(2, 1, 0))


def test_what_is_held_back_comes_at_the_end() -> None:
    recorder, _ = answered(["a <"], max_tokens=1)
    assert (recorder.reasoning, recorder.steps[-1].finish) == ("a <", "length")


def test_half_a_character_at_the_end_is_left_out() -> None:
    recorder, _ = answered(["</think>", b"a\xe6\x97", b"\xa5", b"\xe6\x9c"])
    assert recorder.text == "a日"


@pytest.mark.parametrize("width", [1, 2, 3, 9])
def test_a_stop_text_ends_the_content_before_it(width: int) -> None:
    recorder, player = answered(
        ["END", " in", " the</think>", "rea", "soning E", "N", "D", " more", "even more"],
        width=width, stop=("END", "never"),
    )  # fmt: skip
    assert recorder.reasoning == "END in the"
    assert recorder.text == "reasoning "
    last = recorder.steps[-1]
    assert (last.finish, last.stop_reason) == ("stop", "END")
    assert last.usage == Usage(2, 7, 2)
    assert player.generated <= 9, "generation went on after the stop text"


def test_a_stop_text_in_arguments_does_not_cut_the_call() -> None:
    call = "<tool_call><function=f><parameter=a>\nEND\n</parameter></function></tool_call>"
    recorder, _ = answered(["</think>", call, "x"], tools={"f": {}}, stop=("END",))
    assert "".join(c.arguments for s in recorder.steps for c in s.calls) == '{"a": "END"}'
    assert (recorder.text, recorder.steps[-1].finish) == ("x", "tool_calls")


def test_a_stop_text_is_found_in_what_was_held_back() -> None:
    recorder, _ = answered(["</think>a <"], max_tokens=1, stop=(" <",))
    assert (recorder.text, recorder.steps[-1].finish) == ("a", "stop")
    assert recorder.steps[-1].stop_reason == " <"


@pytest.mark.parametrize(
    ("played", "max_tokens", "finish", "calls"),
    [
        (5, 100, "tool_calls", 1),
        (5, 5, "tool_calls", 1),
        (5, 3, "length", 0),
        (2, 100, "stop", 0),
        (7, 100, "stop", 2),
        (7, 7, "length", 2),
    ],
)
def test_complete_calls_decide_the_finish(
    played: int, max_tokens: int, finish: str, calls: int
) -> None:
    """Where the last call is cut, its arguments are no JSON, and the finish says so."""
    pieces = ["</think><tool_call>", "<function=f>", "</func", "tion>", "</tool_call>"]
    pieces += ["<function=f>", "<parameter=a>1"]
    recorder, _ = answered(pieces[:played], max_tokens=max_tokens, tools={"f": {}})
    assert recorder.steps[-1].finish == finish
    assert len([c for s in recorder.steps for c in s.calls if c.name]) == calls


def test_end_tokens_can_be_ignored() -> None:
    recorder, player = answered(["a", "b"], max_tokens=3, start=Start.RAW, ignore_eos=True)
    assert player.requests[0].end_tokens == frozenset()
    assert (recorder.text, recorder.steps[-1].finish) == ("ab", "length")


def test_logprobs_are_those_of_the_tokens_that_count() -> None:
    recorder, _ = answered(
        ["a", "b", "c"], width=3, start=Start.RAW, stop=("b",), logprobs=1,
        return_cumulative_logprob=True,
    )  # fmt: skip
    rows = [row for step in recorder.steps for row in step.logprobs]
    assert [(row.token, row.logprob, row.top) for row in rows] == [
        ("a", -1.0, (("", -0.5),)), ("b", -1.0, (("", -0.5),)),
    ]  # fmt: skip
    assert answered(["a"], start=Start.RAW)[0].steps[0].logprobs == ()


def test_a_fault_ends_the_request_and_not_the_executor() -> None:
    failures = []

    class Broken(Recorder):
        def step(self, step: Step) -> None:
            raise ZeroDivisionError("no")

        def fail(self, message: str, failure: Failure) -> None:
            failures.append((message, failure))

    vocabulary = ScriptVocabulary([b"a"])
    player = Player([1])
    prepared = Prepared(GenerationRequest(), "x", (1,), 9)
    TextStage(prepared, vocabulary, player.submit, Broken()).start()
    assert failures == [("ZeroDivisionError: no", Failure.INTERNAL)]
    assert player.generated == 1


class TestBudget:
    PIECES = ("a ", "b ", "c ", "d ", "</think>", "never")
    REST = ("answer", "!")

    def test_the_reasoning_is_closed_at_its_budget(self) -> None:
        recorder, player = answered(self.PIECES, self.REST, thinking_budget=3)
        assert (recorder.reasoning, recorder.text) == ("a b c ", "answer!")
        first, second = player.requests
        assert second.resumed
        assert not first.resumed
        assert second.prompt == (7, 8, *player.tokens[:3], 90, 91, 92)
        assert second.max_tokens == 1000 - 3 - 3
        assert recorder.steps[-1].usage == Usage(prompt=2, answer=3 + 3 + 3, reasoning=3)

    @pytest.mark.parametrize("budget", [4, 5, 100])
    def test_a_reasoning_within_its_budget_is_left_alone(self, budget: int) -> None:
        pieces = ("a ", "b ", "c ", "</think>", "text")
        recorder, player = answered(pieces, thinking_budget=budget)
        assert (recorder.reasoning, recorder.text) == ("a b c ", "text")
        assert len(player.requests) == 1

    def test_a_budget_of_nothing_closes_the_reasoning_at_once(self) -> None:
        recorder, player = answered(self.PIECES, self.REST, thinking_budget=0)
        assert (recorder.reasoning, recorder.text) == ("", "answer!")
        (request,) = player.requests
        assert request.resumed
        assert request.prompt == (7, 8, 90, 91, 92)

    def test_the_reasoning_may_be_opened_by_the_answer(self) -> None:
        pieces = ("<think>", *self.PIECES)
        recorder, _ = answered(pieces, self.REST, start=Start.OPEN, thinking_budget=2)
        assert (recorder.reasoning, recorder.text) == ("a b ", "answer!")

    def test_thinking_off_has_no_budget(self) -> None:
        recorder, player = answered(("a", "b"), start=Start.CONTENT, thinking_budget=0)
        assert (recorder.text, len(player.requests)) == ("ab", 1)

    @pytest.mark.parametrize("width", [1, 2, 3, 9])
    def test_tokens_after_the_budget_are_not_part_of_the_answer(self, width: int) -> None:
        recorder, _ = answered(self.PIECES, self.REST, thinking_budget=2, width=width)
        assert (recorder.reasoning, recorder.text) == ("a b ", "answer!")

    @pytest.mark.parametrize(("max_tokens", "text"), [(3, ""), (5, ""), (6, ""), (7, "answer")])
    def test_all_tokens_count_to_the_limit_of_the_answer(self, max_tokens: int, text: str) -> None:
        recorder, _ = answered(self.PIECES, self.REST, thinking_budget=3, max_tokens=max_tokens)
        assert (recorder.reasoning, recorder.text) == ("a b c ", text)
        assert recorder.steps[-1].finish == "length"
        assert recorder.steps[-1].usage == Usage(prompt=2, answer=max_tokens, reasoning=3)

    def test_no_half_of_a_character_is_put_into_the_second_prompt(self) -> None:
        pieces = ("a", b"\xe6", b"\x97", "never")
        recorder, player = answered(pieces, self.REST, thinking_budget=3)
        assert (recorder.reasoning, recorder.text) == ("a", "answer!")
        assert player.requests[1].prompt == (7, 8, player.tokens[0], 90, 91, 92)

    def test_the_beginning_of_a_marker_is_text_where_the_budget_cuts_it(self) -> None:
        recorder, _ = answered(("a </th", "ink>"), self.REST, thinking_budget=1)
        assert (recorder.reasoning, recorder.text) == ("a </th", "answer!")

    def test_log_probabilities_are_added_up(self) -> None:
        recorder, _ = answered(self.PIECES, self.REST, thinking_budget=3)
        assert recorder.steps[-1].cumulative_logprob == -3.0 + -3.0


@pytest.fixture(scope="module", params=[True, False])
def marked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The vocabulary of a tokenizer with markers, flagged special or not."""
    from tokenizers import AddedToken, Tokenizer

    folder = tmp_path_factory.mktemp("marked")
    tokenizer = Tokenizer.from_file(str(catalog.TINY / "tokenizer.json"))
    markers = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
    added = [AddedToken(text, special=request.param, normalized=False) for text in markers]
    (tokenizer.add_special_tokens if request.param else tokenizer.add_tokens)(added)
    tokenizer.save(str(folder / "tokenizer.json"))
    return CheckpointVocabulary(folder)


ANSWER = (
    "First, 日本.</think>\n\nI add.\n<tool_call>\n<function=f>\n<parameter=a>\n😀\n</parameter>\n"
    "</function>\n</tool_call>"
)


def parts(vocabulary: Vocabulary, tokens: Iterable[int], width: int) -> tuple[Any, ...]:
    """An answer of tokens in steps of `width`."""
    recorder = Recorder()
    prepared = Prepared(GenerationRequest(), "x", (1,), 10**6, Start.REASONING, {"f": {}})
    TextStage(prepared, vocabulary, Player(tokens, width=width).submit, recorder).start()
    calls = [call for step in recorder.steps for call in step.calls]
    names = [call.name for call in calls if call.name]
    arguments = "".join(call.arguments for call in calls)
    return recorder.reasoning, recorder.text, names, arguments


def test_markers_are_seen_however_the_tokenizer_flags_them(marked: CheckpointVocabulary) -> None:
    tokens = marked.encode(ANSWER, whole=False)
    assert len(marked.encode("</think>", whole=False)) == 1
    expected = ("First, 日本.", "I add.", ["f"], '{"a": "😀"}')
    assert parts(marked, tokens, 1) == expected
    assert parts(marked, tokens, 10**6) == expected


def test_markers_may_be_spelled_over_many_tokens(marked: CheckpointVocabulary) -> None:
    spelled = CheckpointVocabulary(catalog.TINY).encode(ANSWER, whole=False)
    assert parts(marked, spelled, 1) == parts(marked, spelled, 7)
    assert parts(marked, spelled, 1)[:2] == ("First, 日本.", "I add.")


@given(tokens=st.lists(st.integers(1, 600), max_size=60), width=st.integers(1, 20))
def test_any_tokens_in_any_steps_give_the_same_answer(
    marked: CheckpointVocabulary, tokens: list[int], width: int
) -> None:
    assert parts(marked, tokens, width) == parts(marked, tokens, len(tokens) + 1)


def test_control_tokens_have_no_text_and_markers_have(marked: CheckpointVocabulary) -> None:
    assert "<|im_end|>" in marked.control_texts
    assert "<think>" not in marked.control_texts
    detokenizer = marked.detokenizer()
    tokens: Iterator[int] = iter(marked.encode("a<|im_end|><think>b", whole=False))
    assert "".join(map(detokenizer.push, tokens)) == "a<think>b"


def test_what_follows_a_closed_reasoning_has_a_guide_of_its_own() -> None:
    _, player = answered(["a", "b", "c"], ["{}"], thinking_budget=2)
    assert [request.guide for request in player.requests] == ["whole", "content"]
    _, player = answered(["a", "b", "c"], ["{}"], thinking_budget=0)
    assert [request.guide for request in player.requests] == ["content"]
    # The budget is reached within the closing marker, which the reasoning then keeps as text.
    recorder, player = answered(["a", "b", "</th"], ["{}"], thinking_budget=3)
    assert (recorder.reasoning, recorder.text) == ("ab</th", "{}")
    assert [request.guide for request in player.requests] == ["whole", "content"]


@pytest.mark.parametrize("width", [1, 9])
def test_a_marker_that_the_end_cuts_is_no_content_of_a_guide_to_calls(width: int) -> None:
    call = ["</think>", "<tool_call>", "\n<function=f>\n", "</function>\n", "</tool_call>"]
    guide = Guide("tool_choice", tools={"f": {}})
    fields: dict[str, Any] = {"tools": guide.tools, "guide": guide, "width": width}
    recorder, _ = answered([*call, "\n", "<tool"], max_tokens=7, **fields)
    assert (recorder.text, recorder.steps[-1].finish) == ("", "length")
    recorder, _ = answered(call, **fields)
    assert (recorder.text, recorder.steps[-1].finish) == ("", "tool_calls")
