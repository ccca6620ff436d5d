"""The Markdown pages of the project, and the parts of them that tests look at."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
PAGES: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_FENCE: Final = re.compile(
    r"(?:^<!-- (?P<marker>[^\n]*?) -->\n+)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """A fenced block, and the comment directly above it (empty where there is none)."""

    marker: str
    language: str
    text: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of `page`."""
    text = page.read_text(encoding="utf-8")
    return [Block(m["marker"] or "", m["language"], m["text"]) for m in _FENCE.finditer(text)]


def prose(page: Path) -> str:
    """`page` without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `nemo-deploy` command in a shell block."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line.partition("  #")[0])
        if words and words[0] == "nemo-deploy":
            yield list(takewhile(lambda word: word not in (">", "|"), words[1:]))
