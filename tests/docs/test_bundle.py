"""The page about bundles describes the bundle that `build` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from nemotron_deploy.build.engines.vllm.engine import FILES
from nemotron_deploy.tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "reference" / "bundle.md").read_text(encoding="utf-8")


def rows(section: str) -> list[list[str]]:
    """The cells of the table below the heading `section`, without its header."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def pattern(path: str) -> re.Pattern[str]:
    """A regular expression for a documented path."""
    escaped = re.escape(path).replace("MODEL", "[^/]+").replace("sm_N", r"sm_\d+")
    return re.compile(escaped.replace(r"\*\*", ".+").replace(r"\*", "[^/]+"))


def test_every_file_and_key_is_documented(built: Callable[[str], Path]) -> None:
    out = built("int4")
    record = json.loads((out / "bundle.json").read_text(encoding="utf-8"))
    assert {key for key, _ in rows("`bundle.json`")} == set(record)
    files = [path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()]
    documented = [(pattern(path), written) for path, _, written in rows("Files")]
    for name in files:
        assert any(known.fullmatch(name) for known, _ in documented), f"{name} is not documented"
    for known, written in documented:
        here = [f"engine/{FILES.arguments}"] if written == "vLLM" else files
        assert any(known.fullmatch(name) for name in here), f"{known.pattern}: no such file"
