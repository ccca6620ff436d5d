"""The README's support table is what `plan` answers."""

from __future__ import annotations

from pathlib import Path

from nemotron_deploy.build.planner.table import support_table
from nemotron_deploy.model.catalog import known_model


def test_the_support_table_is_current() -> None:
    model = known_model("nemotron-3-nano-30b-a3b")
    assert model is not None
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    assert support_table(model) in readme
