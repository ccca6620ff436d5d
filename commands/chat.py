"""`chat`: a conversation with a served model in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Final

from ..core.errors import BadInputError
from . import options as opt
from .failures import Terminated
from .terminal import console, printed, progress

if TYPE_CHECKING:
    from ..api.chat import Chat

_PROMPT: Final = "> "
_QUIT: Final = "/quit"


def chat(
    target: opt.ChatTargetArgument,
    system: opt.SystemOption = None,
    thinking: opt.ThinkingOption = True,
    max_tokens: opt.ChatMaxTokensOption = None,
    tools: opt.ToolsOption = None,
    model: opt.ChatModelOption = None,
    executor: opt.ServingExecutorOption = "auto",
    script: opt.ScriptOption = None,
    verify: opt.VerifyOption = "quick",
    trust_code: opt.TrustOption = False,
    as_json: opt.JsonOption = False,
) -> None:
    """Chat with a served model: one question a line, /quit or Ctrl-D ends."""
    from ..api.chat import chat as work
    from ..api.chat import read_tools

    given = read_tools(tools) if tools else ()
    with ExitStack() as stack:
        with progress(as_json) as shown:
            talk = stack.enter_context(
                work(
                    target,
                    system=system,
                    thinking=thinking,
                    max_tokens=max_tokens,
                    tools=given,
                    model=model,
                    executor=executor,
                    script=script,
                    verify=verify,
                    trust_code=trust_code,
                    progress=shown,
                )
            )
        _converse(talk, as_json)
        printed(as_json, talk.result().to_json())


def _converse(talk: Chat, as_json: bool) -> None:
    """Ask each line of standard input. In a terminal, a failure or Ctrl-C ends one answer only."""
    terminal = sys.stdin.isatty() and not as_json
    for question in _questions(terminal):
        try:
            _ask(talk, question, as_json)
        except BadInputError as error:
            if not terminal:
                raise
            from ..views.chat import failed

            failed(console(), str(error))
        except KeyboardInterrupt as interrupt:
            if not terminal or isinstance(interrupt, Terminated):
                raise
            sys.stdout.write("\n")


def _questions(terminal: bool) -> Iterator[str]:
    """Lines that are not empty, until the end of the input or `/quit`."""
    while True:
        try:
            line = _line(terminal)
        except KeyboardInterrupt as interrupt:
            if not terminal or isinstance(interrupt, Terminated):
                raise
            sys.stdout.write("\n")  # what was typed is dropped
            continue
        if line is None or line.strip() == _QUIT:
            return
        if line.strip():
            yield line.strip()


def _line(terminal: bool) -> str | None:
    """The next line, None at the end of the input."""
    if not terminal:
        return sys.stdin.readline() or None
    try:
        import readline  # noqa: F401 - lets `input` edit the line and recall earlier ones

        return input(_PROMPT)
    except EOFError:
        sys.stdout.write("\n")
        return None


def _ask(talk: Chat, question: str, as_json: bool) -> None:
    from ..views.chat import AnswerView

    view = AnswerView(console())
    with closing(talk.ask(question)) as deltas:
        for delta in deltas:
            if not as_json:
                view.add(delta)
                sys.stdout.flush()
    if not as_json:
        view.end(talk.answers[-1])
