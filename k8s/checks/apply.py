"""Applying the rules to objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from .fields import Field, Malformed
from .findings import ERROR, WARNING, Finding, Rule, Severity
from .object_set import KubeObject, ObjectSet
from .schemas import KUBERNETES, REMOVED, WITH_DEVICES, schema_errors
from .table import RULES
from .workloads import Workload, workloads_of

MALFORMED: Final = "malformed"
SCHEMA: Final = "schema"
API_VERSION: Final = "api-version"
DUPLICATE: Final = "duplicate-object"

_AS_API: Final = "Write the field as the Kubernetes API has it"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the rules say of objects: `form` are findings about their form, `rules` the others, by
    subject."""

    form: tuple[Finding, ...]
    rules: dict[str, tuple[Finding, ...]]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them."""
        return (*self.form, *(finding for row in self.rules.values() for finding in row))


def judge(items: Iterable[KubeObject]) -> Judgement:
    """What the rules say of objects that are applied together."""
    form: list[Finding] = []
    readable: list[KubeObject] = []
    for item in items:
        try:
            item.require_readable()
        except Malformed as error:
            form += _malformed(error)
        else:
            readable.append(item)
            form += _schema_findings(item)
    faulty = {(finding.file, finding.object) for finding in form}
    objects = ObjectSet(readable)
    form += _duplicates(objects)
    rules: dict[str, tuple[Finding, ...]] = {}
    for subject, table in RULES.items():
        found = {finding: None for rule in table for finding in _applied(rule, objects)}
        rules[subject] = tuple(f for f in found if f.rule != MALFORMED)
        # What the schema said of an object says more than what a rule could not read.
        malformed = [f for f in found if f.rule == MALFORMED]
        form += [f for f in malformed if (f.file, f.object) not in faulty and f not in form]
    return Judgement(tuple(form), rules)


def _applied(rule: Rule[Any], objects: ObjectSet) -> Iterator[Finding]:
    for subject in rule.subjects(objects):
        try:
            severity = _severity(rule, subject, objects)
            if severity is None:
                continue
            for problem in rule.check(subject, objects):
                mend = problem.mend or rule.mend
                yield _finding(rule.name, severity, problem.field, problem.reason, mend)
        except Malformed as error:
            yield from _malformed(error)


def _severity(
    rule: Rule[Any], subject: Workload | KubeObject, objects: ObjectSet
) -> Severity | None:
    """How severe a problem of a subject is. What is added to a bundle's workloads, such as a
    Service or an autoscaler, is judged as they are."""
    if isinstance(subject, Workload):
        if subject.owner.is_ours:
            return rule.ours
        return rule.servers if subject.is_server else rule.others
    return rule.ours if subject.is_ours or objects.has_ours else rule.others


def _finding(rule: str, severity: Severity, field: Field, reason: str, mend: str) -> Finding:
    item = field.owner
    return Finding(rule, severity, item.file, item.title, field.path, reason, mend)


def _malformed(error: Malformed) -> Iterator[Finding]:
    """Nothing for kinds that Kubernetes does not define: they may have other types."""
    if error.field.owner.is_builtin:
        yield _finding(MALFORMED, ERROR, error.field, error.reason, _AS_API)


def _schema_findings(item: KubeObject) -> Iterator[Finding]:
    if release := REMOVED.get(item.api_version):
        field = item.root["apiVersion"]
        reason = f"Kubernetes {release} removed {item.api_version}"
        yield _finding(API_VERSION, WARNING, field, reason, "Use the version that came after it")
        return
    claims = any(workload.pod["resourceClaims"].items() for workload in workloads_of(item))
    for path, reason in schema_errors(item.document, WITH_DEVICES if claims else KUBERNETES):
        field = Field(None, ".".join(filter(None, (item.prefix, path))), item)
        yield _finding(SCHEMA, ERROR, field, reason, _AS_API)


def _duplicates(objects: ObjectSet) -> Iterator[Finding]:
    """Of two objects of one name, the one that is applied last counts."""
    seen: dict[tuple[str, str, str, str], KubeObject] = {}
    for item in objects.objects:
        identity = (item.group, item.kind, item.namespace, item.metadata["name"].text())
        first = seen.setdefault(identity, item)
        if first is not item and first.file == item.file:
            reason = "the file has two objects of this kind and name"
            yield _finding(DUPLICATE, WARNING, item.metadata["name"], reason, "Remove one of them")
