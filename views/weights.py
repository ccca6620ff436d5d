"""What became of a bundle on its way to a cluster."""

from __future__ import annotations

from rich.console import Console

from ..api.fill import FillResult


def filled(console: Console, result: FillResult) -> None:
    """Print what was made on the claim, and what was deleted."""
    for digest in result.deleted:
        console.print(f"deleted the older bundle {digest}", markup=False, soft_wrap=True)
    state = "made" if result.made else "was there already, undamaged"
    console.print(f"{result.bundle}: {state}", markup=False, soft_wrap=True)
