"""`doctor`: shows what this machine can and cannot do."""

from __future__ import annotations

from . import options as opt
from .terminal import console, printed


def doctor(as_json: opt.JsonOption = False) -> None:
    """Show what this machine can do, and what is missing."""
    from ..api.doctor import doctor as work

    result = work()
    if not printed(as_json, result.to_json()):
        from ..views.results import diagnosis

        diagnosis(console(), result)
