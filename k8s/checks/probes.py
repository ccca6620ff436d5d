"""Rules for probes: when a pod gets requests, and when it is restarted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..sizing import startup_seconds
from .fields import Field
from .findings import ERROR, WARNING, Problem, Rule
from .object_set import ObjectSet, workloads
from .workloads import Container, Workload

_PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")
_HANDLERS: Final = ("httpGet", "tcpSocket", "grpc", "exec")

_PERIOD_S: Final = 10
_FAILURES: Final = 3
"""Kubernetes' own defaults."""

_HASTY_S: Final = 10
"""A liveness probe that gives up within this time restarts a server that is merely busy."""

_LOAD_S: Final = 120
"""A model of some gigabytes does not load within this time."""


def readiness_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Without it, a pod gets requests while its model loads, and while it drains."""
    yield from _missing(workload, "readiness")


def liveness_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Without it, a server that makes no progress is never restarted."""
    yield from _missing(workload, "liveness")


def _missing(workload: Workload, kind: str) -> Iterator[Problem]:
    """Containers that take requests and lack a probe of the kind."""
    if not workload.is_long_running:
        return
    for container in workload.containers:
        probe = container.field[f"{kind}Probe"]
        if not probe.mapping() and _takes_requests(container, workload):
            yield probe.problem(f"{container.name} has no {kind} probe")


def _takes_requests(container: Container, workload: Workload) -> bool:
    """Whether the container has ports, or serves a model: ports need not be declared."""
    return workload.owner.is_ours or bool(container.ports()) or container.is_model_server


def liveness_equal(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A server that is not ready, because it loads or drains, would be restarted."""
    for container in workload.containers:
        liveness, readiness = container.field["livenessProbe"], container.field["readinessProbe"]
        for handler in _HANDLERS:
            asked = liveness[handler].mapping()
            if asked and asked == readiness[handler].mapping():
                yield liveness[handler].problem("asks what the readiness probe asks")


def liveness_hasty(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """One slow answer must not restart a server that has minutes of loading behind it."""
    for container in workload.containers:
        probe = container.field["livenessProbe"]
        if not probe.mapping():
            continue
        failures = probe["failureThreshold"].integer(_FAILURES)
        seconds = probe["periodSeconds"].integer(_PERIOD_S) * failures
        if failures < 2 or seconds < _HASTY_S:
            yield probe["failureThreshold"].problem(
                f"restarts after {failures} failures within {seconds} s"
            )


def startup_budget(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A start takes as long as reading the bundle from slow storage, and warming up."""
    if workload.server is None or workload.bundle_bytes is None:
        return
    needed = startup_seconds(workload.bundle_bytes)
    for container in workload.containers:
        probe = container.field["startupProbe"]
        budget = _budget_seconds(probe)
        if budget < needed:
            field = probe["failureThreshold"] if probe.mapping() else probe
            yield field.problem(f"a start has {budget} s and may take {needed} s")


def startup_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A liveness probe would restart a server while its model loads."""
    server = workload.server
    if server is None or not server.field["livenessProbe"].mapping():
        return
    if not server.field["startupProbe"].mapping():
        budget = _budget_seconds(server.field["livenessProbe"])
        if budget < _LOAD_S:
            yield server.field["startupProbe"].problem(
                f"the liveness probe restarts {server.name} after {budget} s of loading"
            )


def progress_deadline(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A rollout is given up while its pods may still start."""
    server = workload.server
    if server is None or workload.owner.kind != "Deployment":
        return
    budget = _budget_seconds(server.field["startupProbe"])
    deadline = workload.owner.root.at("spec", "progressDeadlineSeconds")
    if deadline.integer(600) <= budget:
        yield deadline.problem(
            f"a rollout fails after {deadline.integer(600)} s, while a start may take {budget} s"
        )


def probe_port(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A probe of a port that the container does not have fails for ever."""
    for container in workload.containers:
        for port in _probe_ports(container):
            value = port.number_or_text()
            if isinstance(value, str) and not value.isdecimal() and value not in container.ports():
                yield port.problem(f"{container.name} has no port named {value}")


def probe_port_undeclared(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A number that the container does not declare may be a mistake."""
    for container in workload.containers:
        ports = container.ports()
        for port in _probe_ports(container):
            value = port.number_or_text()
            number = int(value) if isinstance(value, str) and value.isdecimal() else value
            if isinstance(number, int) and ports and number not in ports:
                yield port.problem(f"{container.name} declares no port {number}")


def _probe_ports(container: Container) -> Iterator[Field]:
    holders = [container.field[probe] for probe in _PROBES]
    holders += [container.field.at("lifecycle", hook) for hook in ("postStart", "preStop")]
    for holder in holders:
        for handler in _HANDLERS[:3]:
            port = holder.at(handler, "port")
            if port.is_set:
                yield port


def _budget_seconds(probe: Field) -> int:
    """How long a probe may fail before it counts; 0 without a probe."""
    if not probe.mapping():
        return 0
    failures = probe["failureThreshold"].integer(_FAILURES)
    budget = probe["periodSeconds"].integer(_PERIOD_S) * failures
    return budget + probe["initialDelaySeconds"].integer(0)


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule(
        "readiness-missing",
        workloads,
        readiness_missing,
        "Add a readinessProbe that fails until the model is loaded",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "liveness-missing",
        workloads,
        liveness_missing,
        "Add a livenessProbe that fails only where a restart helps",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "liveness-equal",
        workloads,
        liveness_equal,
        "Ask for something that holds also while the server loads and drains",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "liveness-hasty",
        workloads,
        liveness_hasty,
        f"Allow several failures and at least {_HASTY_S} s",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "startup-budget",
        workloads,
        startup_budget,
        "Raise failureThreshold x periodSeconds of the startupProbe",
    ),
    Rule(
        "startup-missing",
        workloads,
        startup_missing,
        "Add a startupProbe that allows for the time of loading",
        None,
        WARNING,
    ),
    Rule(
        "progress-deadline",
        workloads,
        progress_deadline,
        "Raise progressDeadlineSeconds above the budget of the startupProbe",
        ERROR,
        WARNING,
    ),
    Rule(
        "probe-port",
        workloads,
        probe_port,
        "Name a port of the container",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule(
        "probe-port-undeclared",
        workloads,
        probe_port_undeclared,
        "Declare the port, or probe one that is declared",
        ERROR,
        WARNING,
        WARNING,
    ),
)
