"""View of a download from the hub."""

from __future__ import annotations

from typing import Any

from rich.console import Console, RenderableType

from .parts import amount, facts, heading, show


def fetch_plan(console: Console, plan: dict[str, Any]) -> None:
    """What will be downloaded, where to, and the disk space that it takes."""
    cached = f"; {amount(plan['bytes_here'])} cached already" if plan["bytes_here"] else ""
    rows: list[tuple[str, RenderableType]] = [
        ("commit", f"{plan['commit']} ({plan['revision']})"),
        ("download", f"{len(plan['files'])} files, {amount(plan['bytes'])}{cached}"),
    ]
    if plan["low_disk"]:
        more = amount(plan["disk_bytes_overlapped"])
        rows += [
            ("to", "beside the output; each shard is deleted once its output is written"),
            ("disk", f"{amount(plan['disk_bytes'])}; {more} to download while quantizing"),
            ("smoothing", "off, because it needs all weights at once"),
        ]
    else:
        rows += [
            ("to", plan["to"]),
            ("disk", f"{amount(plan['disk_bytes'])}, output included"),
        ]
    show(console, heading("Download from the hub", plan["repository"]), facts(rows))
