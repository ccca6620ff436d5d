"""What a rule finds, and what a rule is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from .fields import Field
    from .object_set import ObjectSet

Subject = TypeVar("Subject")


class Severity(StrEnum):
    """An error fails `verify` and `check-manifests`; a warning is shown."""

    ERROR = "error"
    WARNING = "warning"


ERROR, WARNING = Severity.ERROR, Severity.WARNING


@dataclass(frozen=True, slots=True)
class Finding:
    """One mistake in one field.

    Attributes:
        rule: The rule's name.
        severity: `error` or `warning`.
        file: The file that has the object, relative to the directory that was checked.
        object: `Kind/name`.
        field: The path in the object, for example `spec.template.spec.containers[0].image`.
        reason: What is wrong.
        mend: What to do.
    """

    rule: str
    severity: Severity
    file: str
    object: str
    field: str
    reason: str
    mend: str

    def __str__(self) -> str:
        return f"{self.file}: {self.object}: {self.field}: {self.reason}. {self.mend}"


@dataclass(frozen=True, slots=True)
class Problem:
    """What a rule says of a field; `mend` replaces the rule's own."""

    field: Field
    reason: str
    mend: str = ""


Check = Callable[["Subject", "ObjectSet"], Iterator[Problem]]
"""The problems of one subject, which may depend on the other objects."""


@dataclass(frozen=True, slots=True)
class Rule(Generic[Subject]):
    """One rule.

    Attributes:
        name: What findings and documentation call it.
        subjects: What it is asked about: workloads, or objects of a kind.
        check: The problems of one subject.
        mend: What to do about them.
        ours: How severe it is in what nemo-deploy wrote; None where it does not apply.
        servers: The same for others' workloads that ask for GPUs or run a model server.
        others: The same for everything else.
    """

    name: str
    subjects: Callable[[ObjectSet], Iterable[Subject]]
    check: Check[Subject]
    mend: str
    ours: Severity | None = ERROR
    servers: Severity | None = None
    others: Severity | None = None
