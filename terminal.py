"""What every command does with its result: one JSON document, or a view for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from rich.console import Console

    from .verbs.progress import Progress


def printed(as_json: bool, value: dict[str, Any]) -> bool:
    """Print `value` when JSON was asked for; says whether it was."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    return as_json


def show_fetch(plan: dict[str, Any] | None) -> None:
    """Show on standard error what is to be fetched, before it is."""
    if plan:
        from .views.hub import fetch_plan

        fetch_plan(console(stderr=True), plan)


def console(stderr: bool = False) -> Console:
    """Where people read: without colour where nobody looks."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False)


def progress(as_json: bool) -> AbstractContextManager[Progress]:
    """Progress on standard error; none where only JSON is wanted."""
    from contextlib import nullcontext

    from .verbs.progress import Silent

    if as_json:
        return nullcontext(Silent())
    from .views.progress import Shown

    return Shown(console(stderr=True))
