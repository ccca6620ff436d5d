"""What `kubectl diff` prints, by object."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_HEAD: Final = re.compile(r"^diff .*? \S*LIVE-\d+/\S+ \S*MERGED-\d+/(?P<file>\S+)$", re.M)
_NOISE: Final = re.compile(r"^[-+ ] +(?:generation|resourceVersion|uid|creationTimestamp): ")


@dataclass(frozen=True, slots=True)
class Change:
    """An object that applying creates, or changes in these lines."""

    object: str
    created: bool
    lines: tuple[str, ...]


def changes(diff: str) -> tuple[Change, ...]:
    """The objects in the output of `kubectl diff`."""
    parts = _HEAD.split(diff)
    rows = (_change(name, body) for name, body in zip(parts[1::2], parts[2::2], strict=True))
    return tuple(row for row in rows if row.created or row.lines)


def _change(file: str, body: str) -> Change:
    """`file` is called GROUP.VERSION.KIND.NAMESPACE.NAME, without a group for the core's kinds."""
    hunks = body[body.index("\n@@") + 1 :] if "\n@@" in body else ""
    if hunks.startswith("@@ -0,0 "):
        return Change(_title(file), True, ())
    changed = (line for line in hunks.splitlines() if line[:1] in ("+", "-"))
    return Change(_title(file), False, tuple(row for row in changed if not _NOISE.match(row)))


def _title(file: str) -> str:
    match = re.fullmatch(r"(?:.*?\.)?(?P<kind>[A-Z]\w*)\.[^.]*\.(?P<name>.+)", file)
    return f"{match['kind']}/{match['name']}" if match else file
