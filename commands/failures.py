"""How a command ends: its exit code and, where it failed or was interrupted, one message."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

import typer
from typer.exceptions import TyperException

from ..core.errors import BadInputError, NemoDeployError, UsageError
from ..core.extras import missing_package

PROGRAM: Final = "nemo-deploy"
UNEXPECTED: Final = 1
INTERRUPTED: Final = 128 + signal.SIGINT
TERMINATED: Final = 128 + signal.SIGTERM

_WORDING: Final = {
    "No such command": "unknown command",
    ". Did you mean": "; did you mean",
    "a valid int range": "a whole number",
    "a valid float range": "a number",
    "Got unexpected extra argument(s)": "unexpected argument",
}
"""What Typer writes, and what we write for it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived: handled as Ctrl-C, with an exit code of its own."""


def raise_on_sigterm() -> None:
    """Let SIGTERM end a command as Ctrl-C does, so that finished parts are kept."""

    def handle(number: int, frame: FrameType | None) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, handle)


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command line: the words of the command, and the options that may stand anywhere in it."""

    words: tuple[str, ...]
    debug: bool = False
    verbose: bool = False
    log_file: Path | None = None

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """Take the options that every command has out of `arguments`; those behind `--` are left.

        Raises `UsageError` for `--log-file` without a path.
        """
        words: list[str] = []
        debug = verbose = False
        log_file: str | None = None
        remaining = iter(arguments)
        for argument in remaining:
            name, equals, value = argument.partition("=")
            if argument == "--debug":
                debug = True
            elif argument in ("-v", "--verbose"):
                verbose = True
            elif name == "--log-file":
                log_file = value if equals else next(remaining, "")
                if not log_file:
                    raise UsageError("--log-file needs a path")
            else:
                words.append(argument)
                if argument == "--":
                    words += remaining
        return cls(tuple(words), debug, verbose, Path(log_file) if log_file else None)


def exit_code(
    arguments: Sequence[str], command: Callable[[Sequence[str]], object], debug: bool = False
) -> int:
    """Run `command` with the words of a command line; gives the exit code (see `core.errors`).

    A failure is one message on standard error; its traceback is shown only with `--debug` or where
    `debug`. That of an unforeseen failure is written to a file.
    """
    invocation = Invocation(tuple(arguments), debug)
    try:
        invocation = Invocation.parse(arguments)
        _start_log(invocation, arguments)
        command(invocation.words)
        sys.stdout.flush()
        code = 0
    except typer.Exit as end:
        code = end.exit_code
    except SystemExit as end:  # of Typer's completion
        code = end.code if isinstance(end.code, int) else 0
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        _discard_output()
        code = UNEXPECTED
    except (KeyboardInterrupt, Exception) as error:
        code = _failed(error, invocation, arguments, debug or invocation.debug)
    _log(invocation, f"exit code {code}")
    return code


def _failed(
    error: BaseException, invocation: Invocation, arguments: Sequence[str], debug: bool
) -> int:
    import traceback

    text = "".join(traceback.format_exception(error))
    if isinstance(error, KeyboardInterrupt):
        message = _interruption(error, arguments)
        code = TERMINATED if isinstance(error, Terminated) else INTERRUPTED
    else:
        code, message = _explained(error)
        notes = getattr(error, "__notes__", ())
        if notes:
            kept = " ".join(notes)
            message = f"{message.removesuffix('.')}. {kept} Run the same command again to continue"
        message = f"error: {message}"
    if code == UNEXPECTED:
        message += _report(text, invocation, arguments)
    if debug and not isinstance(error, TyperException):
        sys.stderr.write(text)
    sys.stderr.write(message + "\n")
    _log(invocation, f"{message}\n{text}")
    return code


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit code and the message of a failure."""
    if isinstance(error, ImportError) and (missing := missing_package(error)):
        error = missing
    if isinstance(error, NemoDeployError):
        return error.exit_code, str(error)
    if isinstance(error, TyperException):
        return error.exit_code, _usage(error)
    if isinstance(error, OSError):
        text = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return BadInputError.exit_code, text
    return UNEXPECTED, f"unexpected {type(error).__name__}: {error}."


def _usage(error: Any) -> str:
    """What Typer has to say of a command line, in the style of our own messages."""
    text: str = error.format_message()
    option, possible = getattr(error, "option_name", None), getattr(error, "possibilities", None)
    if text.startswith("No such option"):
        text = f"unknown option {option}"
        if possible:
            text += f"; did you mean {' or '.join(sorted(possible))}?"
    else:
        for typers, ours in _WORDING.items():
            text = text.replace(typers, ours)
        text = (text[:1].lower() + text[1:]).removesuffix(".")
    context = getattr(error, "ctx", None)
    return f"{text} (see {context.command_path} --help)" if context else text


def _interruption(error: BaseException, arguments: Sequence[str]) -> str:
    """What an interrupted command kept, and how to go on."""
    notes = getattr(error, "__notes__", ())
    if not notes:
        return "interrupted"
    command = shlex.join([PROGRAM, *arguments])
    return f"interrupted. {' '.join(notes)} To continue, run:\n  {command}"


def _report(text: str, invocation: Invocation, arguments: Sequence[str]) -> str:
    """Write what a bug report needs into a new file; gives the sentence that names it."""
    import platform
    import tempfile
    import time

    from .. import __version__
    from ..core.log import masked

    folder = invocation.log_file.parent if invocation.log_file else Path(tempfile.gettempdir())
    path = folder / f"{PROGRAM}-error-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    content = (
        f"{PROGRAM} {__version__}\nPython {platform.python_version()} on {platform.platform()}\n"
        f"{shlex.join([PROGRAM, *arguments])}\n\n{text}"
    )
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(masked(content))
    except OSError as error:
        return f" The traceback could not be saved ({path}: {error.strerror}); --debug shows it."
    return f" This is a bug. Please report it with the traceback, which is in {path}"


def _start_log(invocation: Invocation, arguments: Sequence[str]) -> None:
    if not (invocation.verbose or invocation.log_file):
        return
    from .. import __version__
    from ..core.log import configure

    configure(invocation.verbose, invocation.log_file)
    _log(invocation, f"{PROGRAM} {__version__}: {shlex.join([PROGRAM, *arguments])}")


def _log(invocation: Invocation, text: str) -> None:
    """Note `text` in the log file only: it was shown, or is of no interest while all goes well."""
    if invocation.log_file:
        import logging

        logging.getLogger(__name__).debug(text)


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Add `note` to an interrupt of the block: what becomes of the work."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(note)
        raise


def _discard_output() -> None:
    """Send what is still to be written nowhere, so that the interpreter ends quietly."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
