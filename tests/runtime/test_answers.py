"""Reasoning, content and tool calls: the cases of the fact sheet, and that cutting changes nothing.

The numbers are those of the cases that were collected from issues of other servers.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemotron_deploy.runtime.answers import (
    THINK_END,
    THINK_START,
    AnswerParser,
    Call,
    Content,
    Reasoning,
    Start,
    start_after,
)
from nemotron_deploy.runtime.calls import CALL_END, CALL_START

F = {
    "type": "object",
    "properties": {
        "a": {"type": "string"},
        "n": {"type": "integer"},
        "b": {"type": "boolean"},
        "o": {"type": "object"},
    },
}
TOOLS = {"f": F}


class Parsed:
    """An answer's parts, joined from what the parser gave piece by piece."""

    def __init__(self, pieces: Iterable[str], start: Start, tools: dict[str, Any]) -> None:
        ids = itertools.count()
        parser = AnswerParser(start, tools, lambda: f"call_{next(ids)}")
        events = [event for piece in pieces for event in parser.push(piece)]
        events += parser.finish()
        self.reasoning = "".join(e.text for e in events if isinstance(e, Reasoning))
        self.content = "".join(e.text for e in events if isinstance(e, Content))
        self.pieces = [e for e in events if isinstance(e, Call)]
        self.complete = parser.complete_calls
        self.calls: list[tuple[str, str]] = []
        for piece in self.pieces:
            if piece.index == len(self.calls):
                assert piece.id == f"call_{piece.index}"
                assert piece.arguments == ""
                self.calls.append((piece.name, ""))
            else:
                assert (piece.id, piece.name) == ("", "")
                name, arguments = self.calls[piece.index]
                self.calls[piece.index] = (name, arguments + piece.arguments)

    def parts(self) -> tuple[Any, ...]:
        return self.reasoning, self.content, self.calls, self.complete


def parsed(*pieces: str, start: Start = Start.REASONING, tools: dict[str, Any] = TOOLS) -> Parsed:
    """Parse; also cut everywhere, once and into single characters, with the same result."""
    answer = Parsed(pieces, start, tools)
    whole = "".join(pieces)
    assert Parsed([whole], start, tools).parts() == answer.parts()
    assert Parsed(whole, start, tools).parts() == answer.parts()
    for at in range(1, len(whole)):
        assert Parsed([whole[:at], whole[at:]], start, tools).parts() == answer.parts(), whole[:at]
    return answer


def call(**values: str) -> str:
    parameters = "".join(
        f"<parameter={name}>\n{value}\n</parameter>\n" for name, value in values.items()
    )
    return f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>"


def arguments(text: str) -> dict[str, Any]:
    """The arguments of the only call of an answer, which are exactly what `json.dumps` writes."""
    answer = parsed(text)
    ((name, given),) = answer.calls
    value: dict[str, Any] = json.loads(given)
    assert name == "f"
    assert given == json.dumps(value, ensure_ascii=False)
    assert (answer.content, answer.complete) == ("", 1)
    return value


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        (("x</th", "ink>", "y"), "x", "y"),  # 1
        (("x</thing>",), "x</thing>", ""),  # 2
        (("x <",), "x <", ""),  # 3
        (("x</think>\n\ny",), "x", "y"),  # 4
        (("x",), "x", ""),  # 5, and no closing marker at all
        (("<think>\nx</think>y",), "x", "y"),  # 29
        (("x<think>\nz</think>y",), "xz", "y"),
        (("x</think>\n</think>\n y</think>z",), "x", "yz"),
        (("</think>",), "", ""),
        ((), "", ""),  # 30
        (("x</think>y <",), "x", "y <"),
        (("x</think> \n",), "x", ""),
        (("x</think>y\n\n",), "x", "y\n\n"),
    ],
)
def test_reasoning_and_content(text: Sequence[str], reasoning: str, content: str) -> None:
    for tools in (TOOLS, {}):
        answer = parsed(*text, tools=tools)
        assert answer.parts() == (reasoning, content, [], 0)


def test_a_call_ends_the_reasoning() -> None:  # 6
    answer = parsed("x" + call(a="1"))
    assert answer.parts() == ("x", "", [("f", '{"a": "1"}')], 1)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (" line1\nline2\n", " line1\nline2\n"),  # 7: one newline off each end, which `call` adds
        ("if x</parameter_y>", "if x</parameter_y>"),  # 8
        ("x</parameter> y", "x</parameter> y"),
        ("<b>1 & 2</b> &lt;", "<b>1 & 2</b> &lt;"),  # 9
        ('{"k": 1}', '{"k": 1}'),  # 10
        ("null", "null"),  # 15
        ("日本語 😀", "日本語 😀"),  # 16
        ("", ""),
        ("\\ \" \t", "\\ \" \t"),
    ],
)  # fmt: skip
def test_texts_are_kept_as_they_are(value: str, expected: str) -> None:
    assert arguments(f"</think>{call(a=value)}") == {"a": expected}
    assert arguments(call(unknown=value)) == {"unknown": expected}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("o", '{"k": [1, {"z": "}"}]}', {"k": [1, {"z": "}"}]}),  # 11
        ("o", "{'k': True}", {"k": True}),  # 12
        ("n", "007", 7),  # 13
        ("n", "1e3", 1000),
        ("n", "seven", "seven"),
        ("b", "True", True),  # 14
        ("b", "false", False),
        ("b", "yes", "yes"),
    ],
)
def test_values_have_the_declared_type(name: str, value: str, expected: object) -> None:
    assert arguments(call(**{name: value})) == {name: expected}


def test_several_calls_are_numbered() -> None:  # 17
    answer = parsed(f"x</think>{call(a='1')}\n{call(n='2', b='true')}\n")
    assert answer.parts() == (
        "x", "", [("f", '{"a": "1"}'), ("f", '{"n": 2, "b": true}')], 2,
    )  # fmt: skip


def test_content_before_and_after_a_call() -> None:  # 18, 19
    answer = parsed(f"x</think>text\n\n{call(a='1')}\n")
    assert answer.parts() == ("x", "text", [("f", '{"a": "1"}')], 1)
    answer = parsed(f"x</think>{call(a='1')}\n\ntext\n")
    assert answer.parts() == ("x", "text\n", [("f", '{"a": "1"}')], 1)


@pytest.mark.parametrize(
    ("cut", "given"),
    [
        ("some tex", '{"n": 1, "a": "some tex'),  # 20
        ("some text\n</para", '{"n": 1, "a": "some text\\n</para'),
        ("some text\n</parameter>\n</", '{"n": 1, "a": "some text"'),
        ("some text\n</parameter>\n</functio", '{"n": 1, "a": "some text"'),
    ],
)
def test_a_call_that_is_cut_is_not_complete(cut: str, given: str) -> None:
    whole = call(n="1", a="some text")
    assert cut in whole
    answer = parsed(f"x</think>{whole.partition('some text')[0]}{cut}")
    assert answer.parts() == ("x", "", [("f", given)], 0)
    with pytest.raises(ValueError, match=r"delimiter|Unterminated"):
        json.loads(given)


@pytest.mark.parametrize(
    "text", ["<tool_call>", "<tool_call>\n<func", "<tool_call>\n<function=f", call()[:-29]]
)
def test_a_call_cut_before_its_parameters_is_no_call_and_leaks_nothing(text: str) -> None:  # 21
    assert parsed(f"x</think>{text}").parts() == ("x", "", [], 0)
    assert parsed(f"x{text}").parts() == ("x", "", [], 0)


def test_an_end_of_a_call_that_is_cut_leaks_nothing() -> None:
    assert parsed(f"</think>{call(a='1')}"[:-5]).parts() == ("", "", [("f", '{"a": "1"}')], 1)


@pytest.mark.parametrize("end", ["</function>\n</tool_call>", "</function>", "</tool_call>"])
def test_end_tags_may_be_missing(end: str) -> None:  # 22
    text = f"<tool_call>\n<function=f>\n<parameter=a>\n1\n<parameter=n>\n2\n{end}"
    assert arguments(text) == {"a": "1", "n": 2}


def test_without_tools_markers_of_calls_are_text() -> None:  # 23
    prose = f"the token {CALL_START} means: {call(a='1')} <"
    assert parsed(f"x</think>{prose}", tools={}).parts() == ("x", prose, [], 0)
    assert parsed(f"x{prose}", tools={}).parts() == (f"x{prose}", "", [], 0)


@pytest.mark.parametrize(
    "prose",
    [
        f"the tokens {CALL_START} and {CALL_END} mean",
        f"{CALL_START}\n<function>",
        f"{CALL_START}\n<function=f>junk",
        "use <function=g> or <function=f>, please",
        f"{CALL_START}<function=>",
    ],
)
def test_what_is_no_call_is_given_back_as_text(prose: str) -> None:
    assert parsed(f"x</think>{prose}").parts() == ("x", prose, [], 0)


def test_prose_about_calls_does_not_end_the_reasoning() -> None:
    assert parsed(f"a {CALL_START} b</think>y").parts() == (f"a {CALL_START} b", "y", [], 0)


def test_a_function_without_its_outer_marker() -> None:
    bare = call(a="1").removeprefix(CALL_START)
    assert parsed(f"x</think>y{bare}").parts() == ("x", "y", [("f", '{"a": "1"}')], 1)
    unknown = bare.replace("=f>", "=g>").removesuffix(CALL_END)
    assert parsed(f"x</think>y{unknown}").parts() == ("x", f"y{unknown}", [], 0)


def test_an_unknown_function_is_a_call() -> None:  # 24
    text = call(a="1").replace("=f>", "=other>")
    assert parsed(f"x</think>{text}").parts() == ("x", "", [("other", '{"a": "1"}')], 1)


def test_of_a_parameter_that_is_given_twice_the_last_one_counts() -> None:  # 25
    answer = parsed(call(a="1").replace("</function>", "<parameter=a>\n2\n</parameter></function>"))
    assert json.loads(answer.calls[0][1]) == {"a": "2"}


def test_a_call_without_parameters() -> None:  # 26
    assert arguments(call()) == {}
    assert parsed(call()).calls == [("f", "{}")]


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("y</think>z", "yz"),  # 27
        ("plain <b>text</b>", "plain <b>text</b>"),  # 28
        ("<think>y", "y"),
        ("</thi</think>nk>y", "y"),
    ],
)
def test_thinking_off(text: str, content: str) -> None:
    assert parsed(text, start=Start.CONTENT).parts() == ("", content, [], 0)


@pytest.mark.parametrize("count", range(6, 11))
def test_beginnings_of_markers_within_markers(count: int) -> None:
    """However they nest, cutting the text changes nothing, and they are not collected for ever."""
    nested = "</thi" * count + THINK_END + "nk>" * count
    for start in (Start.CONTENT, Start.REASONING):
        parsed(f"{nested}y", start=start)
    parser = AnswerParser(Start.CONTENT, TOOLS)
    sent = sum(len(e.text) for _ in range(100) for e in parser.push("<") if isinstance(e, Content))
    assert sent >= 90


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("\n<think>\nx</think>\n\ny", "x", "y"),
        ("y<think>z", "", "yz"),
        (" plain", "", " plain"),
        ("<th", "", "<th"),
    ],
)
def test_an_answer_may_open_its_reasoning_itself(text: str, reasoning: str, content: str) -> None:
    assert parsed(text, start=Start.OPEN).parts() == (reasoning, content, [], 0)


@given(st.lists(st.sampled_from([THINK_START, THINK_END, CALL_START, "</", "x", "\n"])))
def test_raw_text_passes_through(pieces: list[str]) -> None:
    assert Parsed(pieces, Start.RAW, {}).parts() == ("", "".join(pieces), [], 0)


@pytest.mark.parametrize(
    ("prompt", "start"),
    [
        ("<|im_start|>assistant\n<think>\n", Start.REASONING),
        ("<|im_start|>assistant\n<think></think>", Start.CONTENT),
        ("<think>old</think>\n<|im_start|>assistant\n", Start.OPEN),
        ("", Start.OPEN),
    ],
)
def test_the_end_of_the_prompt_says_where_the_answer_begins(prompt: str, start: Start) -> None:
    assert start_after(prompt) is start


_PIECES = st.sampled_from(
    [
        THINK_START, THINK_END, CALL_START, CALL_END, "<function=f>", "<function=g>",
        "<parameter=a>", "<parameter=n>", "</parameter>", "</function>", "\n", " ", "x", "12",
        "<", "</", "<tool", "</thi", "nk>", "True", '"', "日", "<function=", ">",
    ]
)  # fmt: skip
_STARTS = st.sampled_from(list(Start))


@given(pieces=st.lists(_PIECES, max_size=30), start=_STARTS, data=st.data())
def test_any_cutting_gives_the_same_parts(
    pieces: list[str], start: Start, data: st.DataObject
) -> None:
    whole = "".join(pieces)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    cut = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    tools = data.draw(st.sampled_from([TOOLS, {}]))
    assert Parsed(cut, start, tools).parts() == Parsed([whole], start, tools).parts()


@given(pieces=st.lists(_PIECES, max_size=30), start=_STARTS)
def test_every_character_is_in_one_place_and_no_marker_leaks(
    pieces: list[str], start: Start
) -> None:
    """Without tools: what is neither reasoning nor content is a marker or white space."""
    whole = "".join(pieces)
    answer = Parsed([whole], start, {})
    lost = Counter(whole) - Counter(answer.reasoning + answer.content)
    closing = lost["/"]
    opening = lost["<"] - closing
    markers = Counter(THINK_END * closing + THINK_START * opening)
    assert {c: n for c, n in (lost - markers).items() if not c.isspace()} == {}
    assert Counter(answer.reasoning + answer.content) <= Counter(whole)
    if start is not Start.RAW:
        assert THINK_END not in answer.content
        assert THINK_START not in answer.content


@given(pieces=st.lists(_PIECES, max_size=30))
def test_arguments_of_complete_calls_are_json(pieces: list[str]) -> None:
    answer = Parsed(["<tool_call><function=f>", *pieces, *call(a="1")], Start.CONTENT, TOOLS)
    assert answer.complete
    for _, written in answer.calls[: answer.complete]:
        assert isinstance(json.loads(written), dict)


_TEXT = st.text(st.characters(exclude_characters="<", codec="utf-8"), max_size=12)


@given(
    reasoning=_TEXT, content=_TEXT, values=st.lists(_TEXT, max_size=3), after=_TEXT,
    data=st.data(),
)  # fmt: skip
def test_what_is_written_is_read_back(
    reasoning: str, content: str, values: list[str], after: str, data: st.DataObject
) -> None:
    calls = "\n".join(call(a=value) for value in values)
    whole = f"{reasoning}</think>{content}{calls}{after}"
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
    cut = [whole[a:b] for a, b in itertools.pairwise([0, *cuts, len(whole)])]
    answer = Parsed(cut, Start.REASONING, TOOLS)
    assert answer.reasoning == reasoning.removeprefix("\n")
    expected = content.strip() + after.lstrip() if values else (content + after).lstrip()
    assert answer.content == expected
    assert [json.loads(written) for _, written in answer.calls] == [{"a": v} for v in values]


@pytest.mark.parametrize("start", [Start.REASONING, Start.OPEN, Start.CONTENT])
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_texts_in_guided_json_may_hold_any_marker(start: Start, size: int) -> None:
    """Unguided, the first `</think>` would be dropped, and the rest be a call."""
    content = json.dumps({"a": "<think>x</think> <tool_call><function=f><parameter=a>1"})
    text = {Start.REASONING: "hm</think>\n\n", Start.OPEN: "", Start.CONTENT: ""}[start] + content
    parser = AnswerParser(start, {"f": {}}, guided=True)
    events = [
        event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])
    ]
    events += parser.finish()
    assert "".join(event.text for event in events if isinstance(event, Content)) == content
    assert not parser.called


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_json_in_guided_calls_may_hold_any_marker(size: int) -> None:
    value = {"a": ["</parameter>", "\n</function>\n</tool_call>", '"']}
    schema = {"properties": {"o": {"type": "object"}, "s": {"type": "string"}}}
    parameters = (
        f"<parameter=o>\n{json.dumps(value)}\n</parameter>\n<parameter=s>\nb\n</parameter>\n"
    )
    text = f"<tool_call>\n<function=f>\n{parameters}</function>\n</tool_call>"
    parser = AnswerParser(Start.CONTENT, {"f": schema}, guided=True)
    events = [
        event for at in range(0, len(text), size) for event in parser.push(text[at : at + size])
    ]
    arguments = "".join(event.arguments for event in events if isinstance(event, Call))
    assert json.loads(arguments) == {"o": value, "s": "b"}
    assert parser.called
