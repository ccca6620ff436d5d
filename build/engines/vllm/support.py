"""vLLM's releases and support rules, and what of them has run on hardware."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ..rules import Rule, RuleBook

DATA: Final = Path(__file__).parent / "data"

RULES: Final = RuleBook(DATA / "rules.json", "vLLM", "--vllm")


def table(versions: str) -> Path:
    """The table of arguments of the release with these versions; that of the default release for
    versions that are not known."""
    for release in RULES.releases:
        if release.versions == versions:
            return DATA / str(release.settings["arguments"])
    return DATA / str(RULES.releases[0].settings["arguments"])


def evidence(rule: Rule) -> str:
    """What of the rule's format has run on hardware, in a few sentences."""
    if rule.status not in ("supported", "needs"):
        return ""
    own = "nemo-deploy has not run this on a GPU; the code is vLLM's own."
    return f"{own} {rule.reports}".rstrip()
