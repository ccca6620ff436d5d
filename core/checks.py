"""The result of one check of a bundle, a server or a manifest."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result; `detail` says what was seen."""

    name: str
    ok: bool
    detail: str
