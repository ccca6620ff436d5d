"""Support rules: which GPU can serve which format, with what, and why not otherwise."""

from __future__ import annotations

import json
from collections.abc import Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from ..spec import Gpu, Quant, Role

TABLE: Final = Path(__file__).parent / "data" / "rules.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what holds for a format on some GPU architectures.

    With `roles`, it is for models of which the format quantizes tensors with one of these roles.
    `backend` and `plugin` (the module that brings what TensorRT-LLM lacks) are those of the row, or
    empty: the released backend alone.
    `status` is `supported`, `needs` (buildable, but serving on a GPU needs what `needs` lists) or
    `refused`. `source` is what the row rests on, `seen` whether it was `read` or `run`.
    """

    key: str
    sm: tuple[int, ...]
    quant: str
    status: str
    reason: str
    needs: tuple[str, ...]
    alternatives: tuple[str, ...]
    source: str
    checked: str
    seen: str
    roles: frozenset[Role]
    backend: str
    plugin: str


@cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    return table


@cache
def rules() -> tuple[Rule, ...]:
    """All rows, in the order in which they are tried."""
    return tuple(
        Rule(
            **{key: row[key] for key in ("key", "quant", "status", "reason", "source", "checked")},
            sm=tuple(row["sm"]),
            needs=tuple(row.get("needs", ())),
            alternatives=tuple(row["alternatives"]),
            seen=row["seen"],
            roles=frozenset(map(Role, row.get("roles", ()))),
            backend=row.get("backend", ""),
            plugin=row.get("plugin", ""),
        )
        for row in _table()["rules"]
    )


def runtime() -> dict[str, str]:
    """Backend, TensorRT-LLM versions, container image and MoE backend that bundles are made for."""
    stable: dict[str, str] = _table()["stable"]
    return stable


def rule_for(gpu: Gpu, quant: Quant, roles: Set[Role] = frozenset()) -> Rule:
    """The row that decides for tensors of `roles`. Every known GPU and format has one (held by a
    test)."""
    return next(
        rule
        for rule in rules()
        if gpu.sm in rule.sm and rule.quant == quant.key and (not rule.roles or rule.roles & roles)
    )
