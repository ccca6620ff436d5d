"""View of what is fetched from the hub."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from .parts import amount, facts, heading, show


def fetch_plan(console: Console, plan: dict[str, Any]) -> None:
    """What will be fetched, from where to where, and the disk that it takes."""
    here = f", {amount(plan['bytes_here'])} are here" if plan["bytes_here"] else ""
    rows: list[tuple[str, RenderableType]] = [
        ("commit", f"{plan['commit']} ({plan['revision']})"),
        ("fetch", f"{len(plan['files'])} files, {amount(plan['bytes'])}{here}"),
    ]
    if plan["low_disk"]:
        more = plan["disk_bytes_overlapped"]
        rows += [
            ("to", "beside the output; each shard is let go of once its output is safe"),
            ("disk", f"{amount(plan['disk_bytes'])}; {amount(more)} to fetch while encoding"),
            ("smoothing", "no: it would need all weights at once"),
        ]
    else:
        rows += [
            ("to", plan["to"]),
            ("disk", f"{amount(plan['disk_bytes'])} with the output"),
        ]
    show(console, heading("From the hub", plan["repository"]), facts(rows))
