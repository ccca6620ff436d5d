"""What every command does with its result: one JSON document or a view for people, and an exit
code with one message where it failed."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..core.errors import BadInputError, NemoDeployError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from ..core.progress import Progress


def printed(as_json: bool, value: dict[str, Any]) -> bool:
    """Print `value` when JSON was asked for; says whether it was."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    return as_json


def show_fetch(plan: dict[str, Any] | None) -> None:
    """Show on standard error what is to be fetched, before it is."""
    if plan:
        from ..views.hub import fetch_plan

        fetch_plan(console(stderr=True), plan)


def console(stderr: bool = False) -> Console:
    """Where people read: without colour where nobody looks."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def progress(as_json: bool) -> AbstractContextManager[Progress]:
    """Progress on standard error; none where only JSON is wanted."""
    from contextlib import nullcontext

    from ..core.progress import Silent

    if as_json:
        return nullcontext(Silent())
    from ..views.progress import Shown

    return Shown(console(stderr=True))


def exit_code(command: Callable[[], object], debug: bool) -> int:
    """Run a command of Typer's; gives the exit code of `errors`, after one message where it failed.
    A traceback only with `debug`."""
    try:
        command()
    except SystemExit as end:  # Typer reports wrong usage itself and ends every command this way
        return end.code if isinstance(end.code, int) else 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {_message(error)}\n")
        if isinstance(error, NemoDeployError):
            return error.exit_code
        return BadInputError.exit_code if isinstance(error, OSError) else 1
    return 0


def _message(error: Exception) -> str:
    """One message for any failure; what nobody foresaw is named as that."""
    if isinstance(error, NemoDeployError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error)
    return f"unexpected {type(error).__name__}: {error}; please report it with --debug's output"
