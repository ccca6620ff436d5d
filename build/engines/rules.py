"""Support rules of an engine: which format it serves on which GPU, in which of its versions.

An engine keeps its rules in `data/rules.json` of its folder, as rows with a reason and a source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from ...core.errors import BadInputError, UsageError
from ...model.architecture import PlannedOnly, Role
from ...model.formats import Quant
from ...model.spec import Gpu

STATUSES: Final = ("supported", "needs", "refused")

Row = TypeVar("Row", "Release", "Rule")


@dataclass(frozen=True, slots=True)
class Release:
    """A range of an engine's versions and the image that carries them.

    `versions` is a version specifier, `backend` names in words what generates tokens, `settings`
    are the engine's own.
    """

    key: str
    versions: str
    image: str
    backend: str
    settings: Mapping[str, Any]
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One row: what holds for a format on a range of GPU architectures.

    The row is for SM versions from `min_sm` to `max_sm` and for the versions in `releases`. With
    `roles`, it is for models of which the format quantizes tensors with one of these roles; with
    `condition`, it is for GPUs of which the engine reports that condition.

    `status` is `supported`, `needs` (buildable, but serving on a GPU needs what `needs` lists),
    `refused` or, for a model that is never built, `compared`. `served` is False where no engine
    runs the format on a GPU. `backend` replaces the release's; `plugin` is a module that the bundle
    adds to the engine; `settings` are the engine's own; `env_one_gpu` is environment of a server on
    one GPU.
    `source` is what the row rests on, `checked` a date, `seen` whether it was `read` or `run`,
    `reports` a sentence on where others have run it.
    """

    key: str
    quant: str
    status: str
    reason: str
    alternatives: tuple[str, ...]
    source: str
    checked: str
    seen: str
    reports: str = ""
    min_sm: int = 0
    max_sm: int = 2**31
    releases: frozenset[str] = frozenset({"stable"})
    roles: frozenset[Role] = frozenset()
    condition: str = ""
    needs: tuple[str, ...] = ()
    backend: str = ""
    plugin: str = ""
    settings: Mapping[str, Any] | None = None
    env_one_gpu: Mapping[str, str] | None = None
    served: bool = True

    def only_planned(self, why: PlannedOnly) -> Rule:
        """The rule for a model that is planned and never built."""
        if self.status == "refused":
            return self
        return replace(
            self,
            key=why.rule,
            status="compared",
            reason=why.reason,
            needs=(),
            alternatives=why.alternatives,
            backend="",
            plugin="",
            settings=None,
            env_one_gpu=None,
        )


class RuleBook:
    """The releases and rules of one engine, read from a JSON file when first needed.

    Raises `BadInputError` that names the row and its field where the file is incomplete.
    """

    def __init__(self, path: Path, title: str, version_option: str) -> None:
        self.path, self.title, self.version_option = path, title, version_option

    @property
    def example(self) -> str:
        """A version that has rules."""
        return self.releases[0].versions.lstrip("~=>").split(",")[0]

    @cached_property
    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return document

    @cached_property
    def releases(self) -> tuple[Release, ...]:
        """All known ranges of versions; bundles are built for the first."""
        return tuple(self._read(Release, row) for row in self._document["releases"])

    @cached_property
    def listed(self) -> frozenset[str]:
        """Keys of the GPUs that the engine's makers list as supported."""
        return frozenset(self._document["listed"]["gpus"])

    @cached_property
    def rules(self) -> tuple[Rule, ...]:
        """All rows, in the order in which they are tried."""
        return tuple(self._rule(row) for row in self._document["rules"])

    def _rule(self, row: dict[str, Any]) -> Rule:
        sequences: dict[str, Any] = {
            key: tuple(row[key]) for key in ("alternatives", "needs") if key in row
        }
        sets: dict[str, Any] = {}
        if "releases" in row:
            sets["releases"] = frozenset(row["releases"])
        if "roles" in row:
            sets["roles"] = frozenset(map(Role, row["roles"]))
        rule = self._read(Rule, {**row, **sequences, **sets})
        if rule.status not in STATUSES:
            raise BadInputError(f"{self.path}: rule {rule.key}: status {rule.status!r} is unknown")
        return rule

    def _read(self, kind: type[Row], row: dict[str, Any]) -> Row:
        try:
            return kind(**row)
        except TypeError as error:
            known = {field.name for field in fields(kind)}
            unknown = ", ".join(sorted(set(row) - known))
            detail = f"unknown field {unknown}" if unknown else str(error)
            raise BadInputError(f"{self.path}: {row.get('key', 'a row')}: {detail}") from error

    def release(self, version: str | None = None) -> Release:
        """The release that `version` is in, or the one that bundles are built for.

        Raises `UsageError` for a version of none of them.
        """
        if version is None:
            return self.releases[0]
        from packaging.specifiers import SpecifierSet
        from packaging.version import InvalidVersion, Version

        try:
            wanted = Version(version)
        except InvalidVersion:
            raise UsageError(
                f"{self.version_option} {version!r} is not a version; an example is {self.example}"
            ) from None
        for release in self.releases:
            if SpecifierSet(release.versions).contains(wanted, prereleases=True):
                return release
        known = " or ".join(release.versions for release in self.releases)
        raise UsageError(
            f"{self.version_option} {version}: there are no support rules for this version; known "
            f"are {known}"
        )

    def rule_for(
        self, gpu: Gpu, quant: Quant, roles: Set[Role], release: Release, conditions: Set[str]
    ) -> Rule:
        """The row that decides for tensors of `roles`; a refusal where there is none."""
        for rule in self.rules:
            if (
                rule.quant == quant.key
                and rule.min_sm <= gpu.sm <= rule.max_sm
                and release.key in rule.releases
                and (not rule.roles or rule.roles & roles)
                and (not rule.condition or rule.condition in conditions)
            ):
                return rule
        return Rule(
            key="no-rule",
            quant=quant.key,
            status="refused",
            reason=(
                f"There is no support rule for {quant.key.upper()} on SM{gpu.sm} with {self.title} "
                f"{release.versions}."
            ),
            alternatives=(),
            source=self.path.name,
            checked="",
            seen="read",
        )
