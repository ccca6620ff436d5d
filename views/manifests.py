"""View of `check-manifests`."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .parts import BAD, GOOD, heading, show

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..api.check_manifests import CheckManifestsResult
    from ..k8s.checks.findings import Finding

WARN = Text("!", style="yellow")


def findings(console: Console, result: CheckManifestsResult) -> None:
    """Findings by file and object, what was not checked, and how many of each there are."""
    errors = sum(finding.severity == "error" for finding in result.findings)
    warnings = len(result.findings) - errors
    rows = sorted(result.findings, key=lambda f: (f.file, f.object, f.severity))
    parts: list[RenderableType] = []
    for (file, item), group in groupby(rows, key=lambda f: (f.file, f.object)):
        parts += [Text.assemble((file, "bold"), f"  {item}"), Padding(_table(group), (0, 0, 1, 2))]
    parts += [Text(f"{note.file}: {note.reason}", style="dim") for note in result.notes]
    found = f"{_count(errors, 'error')}, {_count(warnings, 'warning')}"
    counts = f"{_count(result.objects, 'object')}: {found}"
    parts.append(Text.assemble(GOOD if result.ok else BAD, " ", counts))
    show(console, heading("Manifests", str(result.directory)), *parts)


def _table(rows: Iterable[Finding]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column()
    for finding in rows:
        table.add_row(BAD if finding.severity == "error" else WARN, Text(finding.reason))
        table.add_row("", Text(f"{finding.mend}.", style="dim"))
        where = "  ".join(filter(None, (finding.field, f"[{finding.rule}]")))
        table.add_row("", Text(where, style="dim"))
    return table


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"
