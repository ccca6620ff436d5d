"""Split what a model of the Nemotron 3 family writes into reasoning, content and tool calls.

The parser takes text in pieces of any size and gives the same result however the text is cut: a
whole answer is one piece. It holds back no more than what may be the beginning of a marker.

    answer := [reasoning] `</think>` content call*
    call   := `<tool_call>` `<function=NAME>` parameter* `</function>` `</tool_call>`
    parameter := `<parameter=KEY>` newline VALUE newline `</parameter>`

Models deviate from this, and the parser follows them where the meaning is clear: a call ends the
reasoning; `</parameter>` may be missing after the last value; `<function=NAME>` of a declared tool
is a call without `<tool_call>`; markers of reasoning in the content are dropped. What only looks
like a call is given back as text. A call that the end of the answer cuts before its first parameter
is dropped; one that is cut later keeps its arguments so far, which are then no whole JSON.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from .arguments import Schema
from .calls import (
    CALL_END,
    CALL_START,
    FUNCTION,
    FUNCTION_END,
    MOST_NESTED,
    CallReader,
    first_marker,
    held_back,
    read_header,
)

THINK_START: Final = "<think>"
THINK_END: Final = "</think>"
MARKERS: Final = (THINK_START, THINK_END, CALL_START, CALL_END)
"""Markers that a tokenizer may hold as single tokens, flagged special or not."""


class Start(Enum):
    """Where an answer begins."""

    RAW = auto()
    """Reasoning is not looked for: the text is content, markers of reasoning included."""
    CONTENT = auto()
    """Thinking is off: the text is content, and stray markers of reasoning are dropped."""
    REASONING = auto()
    """The prompt ends with the opening marker."""
    OPEN = auto()
    """The answer begins with the opening marker if there is reasoning."""


def start_after(prompt: str) -> Start:
    """Where the answer to a rendered prompt begins, by the end of the prompt."""
    end = prompt.rstrip()
    if end.endswith(THINK_START):
        return Start.REASONING
    return Start.CONTENT if end.endswith(THINK_END) else Start.OPEN


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the content."""

    text: str


@dataclass(frozen=True, slots=True)
class Call:
    """A piece of a tool call. The first one of a call has `id` and `name`; `arguments` of all,
    joined, are the arguments as JSON."""

    index: int
    arguments: str = ""
    id: str = ""
    name: str = ""


Event = Reasoning | Content | Call


def _new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


class _State(Enum):
    UNDECIDED = auto()
    OPENED = auto()
    REASONING = auto()
    GAP = auto()
    CONTENT = auto()
    JSON = auto()
    CALL = auto()
    AFTER_FUNCTION = auto()
    AFTER_CALL = auto()


_FIRST: Final = {
    Start.RAW: _State.CONTENT,
    Start.CONTENT: _State.CONTENT,
    Start.REASONING: _State.OPENED,
    Start.OPEN: _State.UNDECIDED,
}


class AnswerParser:
    """The parser of one answer.

    `tools` are the parameter schemas of the tools by name; without tools, calls are not looked
    for and their markers are text. `new_id` makes the ids of calls. A `guided` answer follows a
    grammar of `guides`: its content is one call or more, or else JSON, whose texts may hold any
    marker.
    """

    def __init__(
        self,
        start: Start,
        tools: Mapping[str, Schema] | None = None,
        new_id: Callable[[], str] = _new_id,
        guided: bool = False,
    ) -> None:
        self._tools = tools or {}
        self._new_id = new_id
        self._guided = guided
        self._cut = False
        self._buffer = ""
        self._events: list[Event] = []
        self._state = _FIRST[start]
        self._steps: Mapping[_State, Callable[[], bool]] = {
            _State.UNDECIDED: self._undecided,
            _State.OPENED: self._opened,
            _State.REASONING: self._in_reasoning,
            _State.GAP: self._gap,
            _State.CONTENT: self._in_content,
            _State.JSON: self._in_json,
            _State.CALL: self._in_call,
            _State.AFTER_FUNCTION: self._after_call,
            _State.AFTER_CALL: self._after_call,
        }
        thinking = () if start is Start.RAW else (THINK_START, THINK_END)
        self._in_reasoning_markers = (*thinking, *((CALL_START,) if self._tools else ()))
        self._dropped = (*thinking, *((CALL_END,) if self._tools else ()))
        named = (f"{FUNCTION}{name}>" for name in self._tools)
        self._begins_call = (CALL_START, *named) if self._tools else ()
        self._in_content_markers = (*self._dropped, *self._begins_call)
        self._given_back = 0
        self._index = -1
        self._call = CallReader({})
        self.complete_calls = 0
        """How many calls were read to their end."""

    @property
    def called(self) -> bool:
        """Whether there are calls, all of them complete."""
        return self.complete_calls > 0 and self._state is not _State.CALL and not self._cut

    @property
    def reasoning(self) -> bool:
        """Whether the answer is within its reasoning."""
        return self._state in (_State.OPENED, _State.REASONING)

    def push(self, text: str) -> list[Event]:
        """What is certain after another piece of text."""
        self._buffer += text
        while self._buffer and self._steps[self._state]():
            pass
        return self._taken()

    def finish(self) -> list[Event]:
        """What was held back, once no more text will come."""
        held, self._buffer = self._buffer, ""
        if self._state in (_State.OPENED, _State.REASONING):
            self._emit(Reasoning, "" if held.startswith(CALL_START) else held)
        elif self._state is _State.CALL:
            self._add_arguments(self._call.finish())
        elif self._guided and self._state is not _State.AFTER_FUNCTION:
            self._cut = bool(held)  # the beginning of a marker of another call
        elif self._state is not _State.AFTER_FUNCTION:
            self._emit(Content, "" if held.lstrip().startswith(self._begins_call) else held)
        return self._taken()

    def _taken(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _emit(self, kind: type[Reasoning] | type[Content], text: str) -> None:
        if text:
            self._events.append(kind(text))

    def _consume(self, count: int) -> None:
        self._buffer = self._buffer[count:]

    # Each step consumes from the buffer and returns whether there may be more to do. One that
    # returns False waits for more text.

    def _undecided(self) -> bool:
        text = self._buffer.lstrip()
        if THINK_START.startswith(text) and text != THINK_START:
            return False
        if text.startswith(THINK_START):
            self._buffer = text.removeprefix(THINK_START)
            self._state = _State.OPENED
        else:
            self._state = _State.CONTENT
        return True

    def _opened(self) -> bool:
        self._consume(self._buffer.startswith("\n"))
        self._state = _State.REASONING
        return True

    def _in_reasoning(self) -> bool:
        at, marker = first_marker(self._buffer, self._in_reasoning_markers)
        if marker == THINK_START:
            self._drop(at, marker, Reasoning)
            self._state = _State.OPENED
            return True
        held = 0 if marker else held_back(self._buffer, self._in_reasoning_markers)
        self._emit_up_to(Reasoning, at - held)
        if marker == CALL_START:
            return self._begin_call(0, CALL_START, Reasoning)
        if marker == THINK_END:
            self._consume(len(THINK_END))
            self._state = _State.GAP
        return marker is not None

    def _gap(self) -> bool:
        """Drop white space and repeated markers between reasoning and content."""
        self._buffer = self._buffer.lstrip()
        for marker in (THINK_END, THINK_START):
            if self._buffer.startswith(marker):
                self._consume(len(marker))
                return True
        if any(marker.startswith(self._buffer) for marker in (THINK_END, THINK_START)):
            return False
        self._state = _State.CONTENT
        return True

    def _in_content(self) -> bool:
        if self._guided and not self._buffer.startswith("<"):
            self._state = _State.JSON
            return True
        at, marker = first_marker(self._buffer, self._in_content_markers)
        if marker is None:
            certain = at - held_back(self._buffer, self._in_content_markers)
            # White space before a call is dropped with it.
            self._emit_up_to(Content, self._without_space(certain) if self._tools else certain)
        elif marker in self._begins_call:
            space = at - self._without_space(at)
            self._emit_up_to(Content, at - space)
            return self._begin_call(space, marker, Content)
        elif marker == CALL_END and self._given_back:
            self._given_back -= 1
            self._emit_up_to(Content, at + len(marker))
        else:
            self._drop(at, marker, Content)
        return marker is not None

    def _in_json(self) -> bool:
        self._emit_up_to(Content, len(self._buffer))
        return False

    def _without_space(self, end: int) -> int:
        """Where the white space before `end` begins."""
        return len(self._buffer[:end].rstrip())

    def _drop(self, at: int, marker: str, kind: type[Reasoning] | type[Content]) -> None:
        """Drop the marker at `at`. What precedes it stays in the buffer where it may be the
        beginning of a marker that what follows completes."""
        rest = self._buffer[at + len(marker) :]
        self._buffer = self._buffer[:at]
        watched = self._in_content_markers if kind is Content else self._in_reasoning_markers
        # One less: before the marker was complete, its beginning was one of those held back.
        certain = at - held_back(self._buffer, watched, MOST_NESTED - 1)
        if kind is Content and self._tools:
            certain = self._without_space(certain)
        self._emit_up_to(kind, certain)
        self._buffer += rest

    def _emit_up_to(self, kind: type[Reasoning] | type[Content], count: int) -> None:
        self._emit(kind, self._buffer[:count])
        self._consume(count)

    def _begin_call(self, at: int, marker: str, kind: type[Reasoning] | type[Content]) -> bool:
        """Begin the call whose `marker` is at `at`, after white space only; or give the marker
        back as text."""
        header = self._buffer[at:]
        if marker == CALL_START:
            header = header.removeprefix(CALL_START).lstrip()
        name_and_rest = read_header(header)
        if name_and_rest is None:
            return False
        if name_and_rest is False:
            self._given_back += marker == CALL_START
            self._emit_up_to(kind, at + len(marker))
            return True
        name, self._buffer = name_and_rest
        self._index += 1
        self._call = CallReader(self._tools.get(name, {}), self._guided)
        self._events.append(Call(self._index, id=self._new_id(), name=name))
        self._state = _State.CALL
        return True

    def _in_call(self) -> bool:
        text, self._buffer = self._buffer, ""
        self._add_arguments(self._call.push(text))
        if self._call.rest is None:
            return False
        self._buffer = self._call.rest
        self.complete_calls += 1
        closed = self._call.ended_by == CALL_END
        self._state = _State.AFTER_CALL if closed else _State.AFTER_FUNCTION
        return True

    def _add_arguments(self, text: str) -> None:
        if text:
            self._events.append(Call(self._index, text))

    def _after_call(self) -> bool:
        """Drop white space and end markers after a call."""
        self._buffer = self._buffer.lstrip()
        for marker in (FUNCTION_END, CALL_END):
            if self._buffer.startswith(marker):
                self._consume(len(marker))
                self._state = _State.AFTER_CALL
                return True
            if marker.startswith(self._buffer):
                return False
        self._state = _State.CONTENT
        return True
