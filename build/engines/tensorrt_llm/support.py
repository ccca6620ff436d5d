"""TensorRT-LLM's releases and support rules."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..rules import RuleBook

RULES: Final = RuleBook(Path(__file__).parent / "data" / "rules.json", "TensorRT-LLM", "--trtllm")


def schema_name(versions: str) -> str:
    """The file in `data/` with the argument classes of the release with these versions; that of the
    default release for versions that are not known."""
    for release in RULES.releases:
        if release.versions == versions:
            return str(release.settings["arguments"])
    return str(RULES.releases[0].settings["arguments"])
