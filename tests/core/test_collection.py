"""The tests themselves."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest


def test_no_room_of_tests_is_passed_over(pytestconfig: pytest.Config) -> None:
    """By default pytest enters no folder called `build`."""
    tests = Path(__file__).parents[1]
    passed_over = [
        path.name
        for path in tests.rglob("*")
        if path.is_dir() and list(path.rglob("test_*.py"))
        for pattern in pytestconfig.getini("norecursedirs")
        if fnmatch(path.name, pattern)
    ]
    assert not passed_over
