"""Read one tool call: its function's name, and its parameters as a JSON object that grows.

`<function=NAME>` (`<parameter=KEY>` newline VALUE newline `</parameter>`)* `</function>`
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Final, Literal

from .arguments import Schema, convert, is_text, types_of

CALL_START: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"
FUNCTION: Final = "<function="
FUNCTION_END: Final = "</function>"
PARAMETER: Final = "<parameter="
PARAMETER_END: Final = "</parameter>"

_NEXT: Final = (PARAMETER, FUNCTION_END, CALL_END)
"""What follows a function's name or a parameter."""

_VALUE_MARKERS: Final = (PARAMETER_END, *_NEXT)

_LONGEST_NAME: Final = 256


def read_header(text: str) -> tuple[str, str] | Literal[False] | None:
    """(function name, what follows) where `text` begins with the function's name and a marker that
    may follow it; None where more text decides; False where it does not."""
    if not text.startswith(FUNCTION):
        return None if FUNCTION.startswith(text) else False
    name = text[len(FUNCTION) :]
    ends = [end for end in map(name.find, "><\n") if end >= 0]
    if not ends:
        return None if len(name) <= _LONGEST_NAME else False
    end = min(ends)
    if name[end] != ">" or not name[:end].strip():
        return False
    rest = name[end + 1 :].lstrip()
    if rest.startswith(_NEXT):
        return name[:end].strip(), rest
    return None if any(marker.startswith(rest) for marker in _NEXT) else False


def first_marker(text: str, markers: Iterable[str], start: int = 0) -> tuple[int, str | None]:
    """The position of the first of `markers` in `text`, and which one; the end and None without.

    Every marker begins with `<`, which most texts do not contain.
    """
    if "<" not in text:
        return len(text), None
    places = [(at, marker) for marker in markers if (at := text.find(marker, start)) >= 0]
    return min(places, default=(len(text), None))


MOST_NESTED: Final = 8
"""How many beginnings of markers are held back at most."""


def held_back(text: str, markers: Iterable[str], most: int = MOST_NESTED) -> int:
    """Length of the end of `text` that consists of proper beginnings of `markers`, at most `most`.

    Of several, because dropping a marker joins what is before it with what is after it.
    """
    if "<" not in text:
        return 0
    start = len(text)
    for _ in range(most):
        at = text.rfind("<", 0, start)
        if at < 0 or not any(marker.startswith(text[at:start]) for marker in markers):
            break
        start = at
    return len(text) - start


class CallReader:
    """Reads what follows a function's name, in pieces of any size, with its declared `schema`. In a
    `guided` call, values that are no texts are JSON in one line, whose texts may hold any marker.

    `rest` is None until the call has ended; then it is the text after it, and `ended_by` the marker
    that ended it.
    """

    def __init__(self, schema: Schema, guided: bool = False) -> None:
        self._schema = schema
        self._guided = guided
        self._buffer = ""
        self._searched = 0
        self._step = self._parameter
        self._types: frozenset[str] = frozenset()
        self._key = ""
        self._separator = "{"
        self._pieces: list[str] = []
        self.rest: str | None = None
        self.ended_by = ""

    def push(self, text: str) -> str:
        """What another piece of text adds to the arguments."""
        self._buffer += text
        while self._buffer and self.rest is None and self._step():
            pass
        return self._taken()

    def finish(self) -> str:
        """What was held back, where the answer ends before the call. A text that is cut stays
        open; a value of another type is dropped, as nothing says what it would have been."""
        if self._step == self._value and is_text(self._types):
            value, ended, _ = self._buffer.partition(PARAMETER_END)
            self._add(_escaped(value.removesuffix("\n")) + '"' if ended else _escaped(value))
        return self._taken()

    def _taken(self) -> str:
        pieces, self._pieces = self._pieces, []
        return "".join(pieces)

    def _add(self, text: str) -> None:
        self._pieces.append(text)

    def _consume(self, count: int) -> None:
        self._buffer = self._buffer[count:]
        self._searched = 0

    # Each step consumes from the buffer and returns whether there may be more to do. One that
    # returns False waits for more text.

    def _parameter(self) -> bool:
        self._buffer = self._buffer.lstrip()
        for marker in (FUNCTION_END, CALL_END):
            if self._buffer.startswith(marker):
                self._add("{}" if self._separator == "{" else "}")
                self.rest = self._buffer.removeprefix(marker)
                self.ended_by = marker
                return False
        ends = [end for end in map(self._buffer.find, ">\n") if end >= 0]
        if not self._buffer.startswith(PARAMETER) or not ends:
            return False
        end = min(ends)
        key = self._buffer[len(PARAMETER) : end].strip()
        self._consume(end + (self._buffer[end] == ">"))
        self._types = types_of(self._schema, key)
        self._key = f"{self._separator}{json.dumps(key, ensure_ascii=False)}: "
        self._separator = ", "
        if is_text(self._types):
            self._add(f'{self._key}"')
        self._step = self._value_start
        return True

    def _value_start(self) -> bool:
        self._consume(self._buffer.startswith("\n"))
        self._step = self._value
        return True

    def _value(self) -> bool:
        end, rest = self._value_end()
        if rest is None:
            if is_text(self._types):
                certain = end - self._buffer[:end].endswith("\n")
                self._add(_escaped(self._buffer[:certain]))
                self._consume(certain)
            return False
        value = self._buffer[:end].removesuffix("\n")
        self._consume(rest)
        if is_text(self._types):
            self._add(f'{_escaped(value)}"')
        else:
            converted = convert(value, self._types)
            self._add(f"{self._key}{json.dumps(converted, ensure_ascii=False)}")
        self._step = self._parameter
        return True

    def _value_end(self) -> tuple[int, int | None]:
        """(where the value ends, where what follows it begins), or (how much of the buffer is
        certainly of the value, None).

        A `</parameter>` ends the value only where a marker follows it: a value may hold its text.
        """
        if self._guided and self._types and "string" not in self._types:
            at = self._buffer.find("\n")
            end = at + 1 + len(PARAMETER_END)
            return (at, end) if at >= 0 and len(self._buffer) >= end else (0, None)
        while True:
            at, marker = first_marker(self._buffer, _VALUE_MARKERS, self._searched)
            if marker is None:
                self._searched = at - held_back(self._buffer, _VALUE_MARKERS)
                return self._searched, None
            if marker != PARAMETER_END:
                return at, at
            after = self._buffer[at + len(marker) :].lstrip()
            if after.startswith(_NEXT):
                return at, at + len(marker)
            if any(following.startswith(after) for following in _NEXT):
                self._searched = at
                return at, None
            self._searched = at + 1


def _escaped(text: str) -> str:
    """`text` as it stands within a JSON string."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
