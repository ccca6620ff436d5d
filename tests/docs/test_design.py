"""The design page lists the packages that exist."""

from __future__ import annotations

import re
import tomllib

from nemotron_deploy.tests.docs.pages import ROOT, blocks


def test_every_package_is_listed() -> None:
    (tree,) = (
        block.text for block in blocks(ROOT / "docs" / "design.md") if block.language == "text"
    )
    listed = set(re.findall(r"^(\S+)/ ", tree, re.M))
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {
        name.removeprefix("nemotron_deploy.").replace(".", "/")
        for name in settings["tool"]["setuptools"]["packages"]
        if name != "nemotron_deploy"
    }
    top = {name for name in packages if "/" not in name and name != "build"}
    parts_of_build = {name for name in packages if re.fullmatch("build/[^/]+", name)}
    assert listed == top | parts_of_build


def test_every_listed_file_exists() -> None:
    (tree,) = (
        block.text for block in blocks(ROOT / "docs" / "design.md") if block.language == "text"
    )
    folder = ""
    for line in tree.splitlines():
        head = re.match(r"^(\S+)/ ", line)
        folder = head[1] if head else folder
        names = re.match(r"^  (\S+(?:, \S+)*) {2,}", line)
        for name in names[1].split(", ") if names else ():
            assert (ROOT / folder / name).exists(), f"{folder}/{name}: no such file"
