"""A chat in the terminal: answers as they come."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from ..api.chat import Answer, Delta

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters with which a model could steer the terminal."""


class AnswerView:
    """Shows one answer on `console`: its reasoning dimmed, then its text, then its tool calls."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._part = ""

    def add(self, delta: Delta) -> None:
        """Show what a response adds."""
        self._write("reasoning", delta.reasoning, "dim")
        self._write("content", delta.text, "")

    def end(self, answer: Answer) -> None:
        """Show what is known at the end only."""
        for call in answer.tool_calls:
            self._write("call", "", "")
            self._break("call")
            function = call["function"]
            text = json.dumps({"name": function["name"], "arguments": function["arguments"]})
            self._write("call", text, "cyan")
        if self._part:
            self._console.print()
        if answer.tokens is not None:
            rate = answer.tokens_per_second
            speed = "" if rate is None else f", {rate:.1f} tokens/s"
            cut = f", {answer.finish_reason}" if answer.finish_reason != "stop" else ""
            note = f"{answer.tokens} tokens{speed}, {answer.seconds:.1f} s{cut}"
            self._console.print(Text(note, style="dim"))

    def _write(self, part: str, text: str, style: str) -> None:
        if not text:
            return
        if part != self._part:
            self._break(part)
        shown = Text(_CONTROL.sub("", text), style=style)
        self._console.print(shown, end="", soft_wrap=True)

    def _break(self, part: str) -> None:
        """Begin a part on a line of its own."""
        if self._part:
            self._console.print()
        self._part = part


def failed(console: Console, message: str) -> None:
    """A question that was not answered."""
    console.print(Text(f"error: {message}", style="red"), soft_wrap=True)
