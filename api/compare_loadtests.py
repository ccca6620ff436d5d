"""`loadtest compare`: what changed between two load tests."""

from __future__ import annotations

from pathlib import Path

from ..loadtest.comparison import Comparison, compare


def compare_loadtests(before: Path, after: Path) -> Comparison:
    """Compare two reports of `loadtest --json` at the loads that both have.

    Raises `BadInputError` for files that are no such reports, that have no load in common, or whose
    tests differ in what was asked for or how tokens were counted.
    """
    return compare(before, after)
