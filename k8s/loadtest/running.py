"""Starts the pods of a load test, and deletes them."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from ...core.errors import BadInputError, CheckFailedError, NemoDeployError
from ..deploy import preflight
from ..deploy.kubectl import FIELD_MANAGER, Kubectl
from ..deploy.reader import read
from ..deploy.snapshot import Object, Target
from ..deploy.watch import Look, Watch
from .objects import LONGEST_S, job, policy
from .stages import starting

_RUN_BYTES: Final = 5
"""Random bytes in a Job's name: several people may test the same servers."""

_OF_JOB: Final = "batch.kubernetes.io/job-name"
"""The label that the Job's controller puts on its pods."""

_log = logging.getLogger(__name__)


@contextmanager
def load_pods(
    kubectl: Kubectl,
    deployment: Object,
    *,
    image: str,
    pods: int,
    limit_s: float,
    looked: Callable[[Look], None],
) -> Iterator[tuple[str, ...]]:
    """Run `pods` pods of `image` beside the pods of `deployment`; gives their names. They, their
    Job and its network policy are deleted when the block ends, however it does.

    `looked` gets every look at them until they run. Raises `BadInputError` where the user may not
    run commands in pods, and `CheckFailedError` where the cluster refuses the pods, or they do not
    run within `limit_s` seconds.
    """
    document = job(deployment, image, pods, secrets.token_hex(_RUN_BYTES))
    _require_allowed(kubectl, document)
    name = document["metadata"]["name"]
    target = Target(None, name, "", "", " ".join(kubectl.words), keeps_job=False)
    try:
        created = _create(kubectl, document)
        _create(kubectl, policy(created))
        watch = Watch(partial(read, kubectl, target), starting, looked)
        watch.run(limit_s).require_done("the load test's pods do not run")
        running = kubectl.items("get", "pods", f"--selector={_OF_JOB}={name}")
        yield tuple(sorted(pod["metadata"]["name"] for pod in running))
    finally:
        _delete(kubectl, name)


def _require_allowed(kubectl: Kubectl, document: Object) -> None:
    """Raise where the cluster refuses such pods, or the user may not run commands in them."""
    answer = kubectl.call("auth", "can-i", "create", "pods/exec", good=(0, 1))
    if answer.out.strip() == "no":
        raise BadInputError(
            f"you may not run commands in pods of the namespace {kubectl.namespace}, which a load "
            "test in the cluster needs; ask an administrator for a role that allows it (create "
            "pods/exec)"
        )
    refused, _ = preflight.refusal(kubectl, document)
    if refused is not None:
        raise CheckFailedError(f"the load test's pods are refused: {refused}")


def _create(kubectl: Kubectl, document: Object) -> Object:
    words = ("create", f"--field-manager={FIELD_MANAGER}", "--filename=-", "--output=json")
    return kubectl.call(*words, stdin=json.dumps(document), finish=True).objects[0]


def _delete(kubectl: Kubectl, name: str) -> None:
    """Delete the Job with its pods, and the policy. Where that is not possible, they end later by
    themselves, so it is only a warning: the report of the test is worth more."""
    objects = (f"job/{name}", f"networkpolicy/{name}")
    words = ("delete", *objects, "--ignore-not-found", "--wait=false")
    try:
        kubectl.call(*words, finish=True)
    except NemoDeployError as error:
        _log.warning(
            "the load test's pods could not be deleted (%s); they end within %d hours, or delete "
            "them: %s",
            error,
            LONGEST_S // 3600,
            kubectl.typed(*words[:3]),
        )
