"""Links, anchors and paths in the pages lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from nemotron_deploy.tests.docs.pages import PAGES, ROOT, prose

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES]
)

LINK = re.compile(r"\]\(([^)\s]+)\)|^\[[^\]]+\]:\s*(\S+)", re.M)
HEADING = re.compile(r"^#{1,6} (.+)$", re.M)
GENERATED = {"dist"}
"""Folders that the program writes."""
BUNDLE = ROOT / "docs" / "reference" / "bundle.md"
"""Its paths are those of a bundle; `test_bundle` compares them with one."""
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)*/?)`")


def anchor(heading: str) -> str:
    """The anchor that GitHub makes of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {anchor(heading) for heading in HEADING.findall(prose(page))}


@each_page
def test_links_resolve(page: Path) -> None:
    for match in LINK.finditer(prose(page)):
        target = match[1] or match[2]
        if re.match(r"[a-z]+:", target):
            continue
        file, _, fragment = target.partition("#")
        goal = (page.parent / file).resolve() if file else page
        assert goal.exists(), f"{target}: no such file"
        if fragment:
            assert fragment in anchors(goal), f"{target}: no such heading"


@each_page
def test_paths_exist(page: Path) -> None:
    """What is written in backticks and begins with a folder of the repository is in it."""
    if page == BUNDLE:
        return
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    for name in PATH.findall(prose(page)):
        first, slash, _ = name.partition("/")
        if slash and first in folders and first not in GENERATED:
            assert (ROOT / name).exists(), f"{name}: no such file or folder"


def test_every_page_is_reachable_from_the_index() -> None:
    """Following links from the documentation's index, every page is met."""
    reached: set[Path] = set()
    waiting = [ROOT / "docs" / "index.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for match in LINK.finditer(prose(page)):
            target = (page.parent / (match[1] or match[2]).partition("#")[0]).resolve()
            if target.suffix == ".md" and target.is_file():
                waiting.append(target)
    assert set(PAGES) <= reached, f"not linked: {sorted(map(str, set(PAGES) - reached))}"
