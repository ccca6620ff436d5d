"""Support rules: which GPU can serve which format, with what, and why not otherwise."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from ...core.errors import UsageError
from ...model.architecture import Role
from ...model.spec import Gpu, Quant

TABLE: Final = Path(__file__).parent / "data" / "rules.json"


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what holds for a format on some GPU architectures.

    It is for the versions of `runtimes`. With `roles`, it is for models of which the format
    quantizes tensors with one of these roles. `backend`, `moe_backend` and `plugin` (the module
    that brings what TensorRT-LLM lacks) are those of the row, or empty: what the runtime has.
    `env_one_gpu` is environment of a server on one GPU. `served` is False where no engine runs it
    on a GPU, with or without what it needs.
    `status` is `supported`, `needs` (buildable, but serving on a GPU needs what `needs` lists),
    `refused` or, for a peer, `compared`. `source` is what the row rests on, `seen` whether it was
    `read` or `run`.
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
    runtimes: frozenset[str]
    roles: frozenset[Role]
    backend: str
    plugin: str
    moe_backend: str
    env_one_gpu: Mapping[str, str]
    served: bool


@dataclass(frozen=True, slots=True)
class Runtime:
    """A range of TensorRT-LLM versions and the image that carries them.

    `state_in_fraction` says whether Mamba states are part of what `free_gpu_memory_fraction` gives
    to caches, `spare_state_slots` how many there are beside those of `max_batch_size`.
    """

    key: str
    backend: str
    trtllm_versions: str
    image: str
    moe_backend: str
    state_in_fraction: bool
    spare_state_slots: int
    source: str


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
            runtimes=frozenset(row.get("runtimes", ("stable",))),
            roles=frozenset(map(Role, row.get("roles", ()))),
            backend=row.get("backend", ""),
            plugin=row.get("plugin", ""),
            moe_backend=row.get("moe_backend", ""),
            env_one_gpu=row.get("env_one_gpu", {}),
            served=row.get("served", True),
        )
        for row in _table()["rules"]
    )


@cache
def runtimes() -> tuple[Runtime, ...]:
    """All known ranges of versions; bundles are built for the first."""
    return tuple(Runtime(**row) for row in _table()["runtimes"])


def runtime(version: str | None = None) -> Runtime:
    """The range that TensorRT-LLM `version` is in, or the one that bundles are built for.

    Raises `UsageError` for a version of none of them.
    """
    if version is None:
        return runtimes()[0]
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        wanted = Version(version)
    except InvalidVersion:
        raise UsageError(f"--trtllm {version!r}: is no version; for example 1.2.1") from None
    for found in runtimes():
        if SpecifierSet(found.trtllm_versions).contains(wanted, prereleases=True):
            return found
    known = " or ".join(found.trtllm_versions for found in runtimes())
    raise UsageError(f"--trtllm {version}: no rule was read for it; known are {known}")


def rule_for(
    gpu: Gpu, quant: Quant, roles: Set[Role] = frozenset(), runtime: str = "stable"
) -> Rule:
    """The row that decides for tensors of `roles`. Every known GPU, format and runtime has one
    (held by a test)."""
    return next(
        rule
        for rule in rules()
        if gpu.sm in rule.sm
        and rule.quant == quant.key
        and runtime in rule.runtimes
        and (not rule.roles or rule.roles & roles)
    )


def compared(rule: Rule) -> Rule:
    """The row for a peer, of which nothing is built, where `rule` does not refuse the format."""
    if rule.status == "refused":
        return rule
    return replace(
        rule,
        key="peer",
        status="compared",
        reason="Planned for comparison only: nemo-deploy builds Nemotron-H models.",
        needs=(),
        alternatives=(),
        backend="",
        plugin="",
        moe_backend="",
        env_one_gpu={},
    )
