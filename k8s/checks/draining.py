"""Rules for stopping: what a pod does between the order to end and its end."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from .findings import ERROR, WARNING, Problem, Rule
from .object_set import ObjectSet, workloads
from .workloads import Container, Workload

EXIT_TIMEOUT: Final = "--exit-timeout-secs"
AGE: Final = "--grpc-max-connection-age"
AGE_GRACE: Final = "--grpc-max-connection-age-grace"

_TRITON_EXIT_S: Final = 30
"""Triton's own default."""

_JITTER: Final = Fraction(11, 10)
"""gRPC spreads the age of channels by 10 %."""


def grace_short(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Kubernetes kills a pod that is still answering when its grace is over."""
    server = _tritonserver(workload)
    if server is None:
        return
    grace = workload.pod["terminationGracePeriodSeconds"]
    timeout = server.seconds(EXIT_TIMEOUT)
    needed = server.pre_stop_seconds + (_TRITON_EXIT_S if timeout is None else int(timeout))
    if grace.integer(30) < needed:
        yield grace.problem(
            f"{grace.integer(30)} s are less than preStop's {server.pre_stop_seconds} s and the "
            f"{needed - server.pre_stop_seconds} s that Triton waits for running requests"
        )


def exit_timeout_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Triton would wait 30 s, less than a long generation takes."""
    server = _tritonserver(workload)
    if server is not None and server.seconds(EXIT_TIMEOUT) is None:
        yield server.argument(EXIT_TIMEOUT).problem(f"{EXIT_TIMEOUT} is missing, or not a number")


def pre_stop_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Triton closes its ports with the order to end; endpoints are updated seconds later."""
    server = _tritonserver(workload)
    if server is not None and not server.pre_stop_seconds:
        yield server.field.at("lifecycle", "preStop").problem(
            "new requests are refused until all clients know that the pod ends"
        )


def connection_age(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A channel that outlives the preStop hook stays with a pod that refuses its requests."""
    server = _tritonserver(workload)
    if server is None or not server.pre_stop_seconds:
        return
    age = server.seconds(AGE, Fraction(1, 1000))
    if age is None or age * _JITTER >= server.pre_stop_seconds:
        shown = "missing" if age is None else f"{float(age):g} s"
        yield server.argument(AGE).problem(
            f"{AGE} is {shown} and must be below preStop's {server.pre_stop_seconds} s"
        )


def connection_age_grace(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """It cuts every stream that is longer than age and grace together, at any time."""
    server = _tritonserver(workload)
    if server is not None and AGE_GRACE in server.flags:
        yield server.argument(AGE_GRACE).problem(f"{AGE_GRACE} cuts long streams")


def _tritonserver(workload: Workload) -> Container | None:
    return next((c for c in workload.containers if c.is_tritonserver), None)


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule(
        "grace-short",
        workloads,
        grace_short,
        "Raise terminationGracePeriodSeconds",
        ERROR,
        WARNING,
    ),
    Rule("exit-timeout-missing", workloads, exit_timeout_missing, f"Add {EXIT_TIMEOUT}"),
    Rule(
        "pre-stop-missing",
        workloads,
        pre_stop_missing,
        "Add a preStop hook that sleeps for some seconds",
        ERROR,
        WARNING,
    ),
    Rule("connection-age", workloads, connection_age, f"Lower {AGE}, or let preStop sleep longer"),
    Rule(
        "connection-age-grace",
        workloads,
        connection_age_grace,
        f"Remove {AGE_GRACE}",
        ERROR,
        WARNING,
    ),
)
