"""What every command does with its result: one JSON document, or a view for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ..core.progress import Progress


def printed(as_json: bool, value: dict[str, Any]) -> bool:
    """Print `value` when JSON was asked for; says whether it was."""
    if as_json:
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
        sys.stdout.flush()  # `serve` prints and goes on
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


@contextmanager
def progress(as_json: bool) -> Iterator[Progress]:
    """Progress on standard error, and in the log; in the log alone where only JSON is wanted."""
    import logging

    from ..core.progress import Logged, Silent

    if as_json:
        yield Logged(Silent(), logging.INFO)
        return
    from ..views.progress import Shown

    with Shown(console(stderr=True)) as shown:
        yield Logged(shown, logging.DEBUG)  # `--verbose` would only repeat what is shown
