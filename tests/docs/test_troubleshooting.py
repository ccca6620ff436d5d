"""The messages that the troubleshooting page explains are messages of the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from nemotron_deploy.tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "troubleshooting.md"
HEADING = re.compile(r"^### (`+) ?(.+?) ?\1$", re.M)
MESSAGES = [match[2] for match in HEADING.finditer(PAGE.read_text(encoding="utf-8"))]
ELSEWHERE = {"tests", "benchmarks", "scripts", "docs", "dist"}


@cache
def texts() -> frozenset[str]:
    """Every text in the package's code, with single spaces; of an f-string its fixed parts."""
    return frozenset(
        " ".join(node.value.split())
        for path in sources()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def sources() -> Iterator[Path]:
    for folder in ROOT.iterdir():
        if folder.is_dir() and not folder.name.startswith(".") and folder.name not in ELSEWHERE:
            yield from folder.rglob("*.py")


@pytest.mark.parametrize("message", MESSAGES)
def test_the_message_is_in_the_code(message: str) -> None:
    parts = [part.strip() for part in message.split("…")]
    checked = [part for part in parts if len(part) > 2]
    assert checked
    for part in checked:
        assert any(part in text for text in texts()), f"the code does not say {part!r}"


def test_messages_are_explained_once() -> None:
    assert len(set(MESSAGES)) == len(MESSAGES)
