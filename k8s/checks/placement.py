"""Rules for GPUs: what is asked for, and which nodes may run the pod."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Final

from ...model import catalog
from ...model.spec import Gpu
from ...runtime.contract import EXECUTOR
from .. import gpu_labels
from ..names import GPU
from .fields import Field
from .findings import ERROR, WARNING, Problem, Rule
from .object_set import ObjectSet, workloads
from .workloads import Workload

GPU_KEY: Final = "nemo-deploy/gpu"
"""Annotation of a pod template: the catalogue's key of the GPU that the bundle is for."""

ENGINES: Final = ("trtllm", "vllm")
"""The executors that need a GPU."""

_SIMILAR: Final = 0.85
"""From this likeness on, an unknown label is taken for a misspelling."""


def gpu_request(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The device plugin takes whole GPUs, and a request that differs from the limit is refused."""
    for container in workload.all_containers:
        for name, _field in container.gpus():
            limit, request = (
                container.resource("limits", name),
                container.resource("requests", name),
            )
            asked, allowed = request.quantity(), limit.quantity()
            if allowed is None:
                yield limit.problem(f"{name} is requested without a limit")
            elif allowed < 1 or allowed % 1:
                yield limit.problem(f"{limit.value} is not a whole number of GPUs")
            elif asked is not None and asked != allowed:
                yield request.problem(f"the request of {name} differs from its limit {limit.value}")


def gpu_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A server of a bundle for GPUs asks for one, as a resource or as a claim of a device."""
    server = workload.server
    if _gpu_of(workload) is None or server is None or _claims_devices(workload):
        return
    if not server.gpus():
        yield server.resource("limits", GPU).problem("the server asks for no GPU")


def gpu_toleration(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Nodes with GPUs usually have a taint."""
    if not any(name == GPU for c in workload.containers for name, _ in c.gpus()):
        return
    tolerations = workload.pod["tolerations"]
    if not any(_tolerates(toleration) for toleration in tolerations.items()):
        yield tolerations.problem(f"the taint {GPU} of GPU nodes is not tolerated")


def _tolerates(toleration: Field) -> bool:
    key = toleration["key"].text()
    return key == GPU or (not key and toleration["operator"].text() == "Exists")


def gpu_unplaced(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A bundle's kernels are for one kind of GPU. Terms are alternatives: one that names no GPU
    would admit any node."""
    known = gpu_labels.vocabularies().keys()
    if _expected_gpu(workload) is None or known & workload.pod["nodeSelector"].mapping():
        return
    terms = _terms(workload)
    if not terms.items():
        yield terms.problem("no required node affinity names the GPU")
    for term in terms.items():
        expressions = term["matchExpressions"]
        if not any(_names_gpu(expression) for expression in expressions.items()):
            yield expressions.problem("this alternative names no GPU, so that any node fits")


def gpu_unknown(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A label that no node has leaves the pod pending for ever."""
    expected = _expected_gpu(workload)
    for field, key, value in _label_values(workload):
        known = gpu_labels.vocabularies()[key]
        is_other = key == gpu_labels.INSTANCE_TYPE or value in gpu_labels.OTHER_GPUS
        if value in known or is_other or _is_sliced(value):
            continue
        nearest = difflib.get_close_matches(value, [*known], 1, 0 if expected else _SIMILAR)
        if nearest:
            reason = f"{value!r} is not a value of {key} that nodes have"
            yield field.problem(reason, f"Write {nearest[0]}, if that is meant")


def gpu_other(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A bundle's kernels and plan are for one kind of GPU."""
    expected = _expected_gpu(workload)
    if expected is None:
        return
    named = False
    for field, key, value in _label_values(workload):
        gpus = gpu_labels.vocabularies()[key].get(value)
        is_known = gpus is not None or value in gpu_labels.OTHER_GPUS
        if is_known and not _is_sliced(value) and expected.key not in (gpus or ()):
            named = True
            yield field.problem(f"{value!r} is another GPU than the bundle's, {expected.name}")
    for term in _terms(workload).items() if not named else ():
        expressions = term["matchExpressions"]
        if any(_names_gpu(expression) for expression in expressions.items()):
            yield from _admitted(expressions, expected)


def _admitted(expressions: Field, expected: Gpu) -> Iterator[Problem]:
    """Another GPU whose nodes fit a term, because a name is that of several GPUs."""
    for other in catalog.gpus().values():
        for node in gpu_labels.labels_of(other) if other.key != expected.key else ():
            if _admits(expressions, node):
                labels = ", ".join(f"{key}={value}" for key, value in node.items())
                yield expressions.problem(f"nodes with {labels} fit, which have {other.name}")
                return


def gpu_slice(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A bundle is planned for the memory of a whole GPU."""
    if _expected_gpu(workload) is None:
        return
    for field, _key, value in _label_values(workload):
        if _is_sliced(value):
            yield field.problem(f"{value!r} is a part of a GPU, or one that is shared")
    for container in workload.containers:
        for name, field in container.gpus():
            if name != GPU:
                yield field.problem(f"{name} is a part of a GPU, or one that is shared")


def gpu_whole(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Nodes keep the name of a GPU that is shared, and instance types know nothing of slices."""
    if _expected_gpu(workload) is None:
        return
    for term in _terms(workload).items():
        expressions = term["matchExpressions"]
        wanted = {e["key"].text(): e for e in expressions.items() if e["operator"].text() == "In"}
        node = {key: next(iter(e["values"].texts()), "") for key, e in wanted.items()}
        names = node.keys() & gpu_labels.vocabularies().keys()
        for key, value in gpu_labels.divided(names) if names else ():
            if _admits(expressions, node | {key: value}):
                yield expressions.problem(f"nodes with {key}={value} are not excluded")
                break


def _admits(expressions: Field, node: dict[str, str]) -> bool:
    """Whether a node with these labels fits a term. Labels that say nothing of GPUs are taken to
    fit."""
    for expression in expressions.items():
        key, operator = expression["key"].text(), expression["operator"].text()
        values = expression["values"].texts()
        refused = {
            "In": key in gpu_labels.NAMING | node.keys() and node.get(key) not in values,
            "NotIn": key in node and node[key] in values,
            "DoesNotExist": key in node,
        }
        if refused.get(operator, False):
            return False
    return True


def needs_gpu(workload: Workload) -> bool:
    """Whether the executor of a bundle's server runs on GPUs."""
    server = workload.server
    executor = server.value(EXECUTOR.name) if server else None
    return executor is not None and executor.value in ENGINES


def _gpu_of(workload: Workload) -> Gpu | None:
    """The GPU that a bundle's workload is for; None where its executor needs none."""
    gpu = catalog.gpus().get(workload.annotations.get(GPU_KEY, ""))
    return gpu if needs_gpu(workload) else None


def _expected_gpu(workload: Workload) -> Gpu | None:
    """The same, for pods that the scheduler places by the labels of nodes."""
    asks = any(container.gpus() for container in workload.containers)
    return _gpu_of(workload) if asks else None


def _claims_devices(workload: Workload) -> bool:
    """Whether GPUs come from a resource claim, whose device class selects them."""
    return bool(workload.pod["resourceClaims"].items())


def _terms(workload: Workload) -> Field:
    affinity = workload.pod.at("affinity", "nodeAffinity")
    return affinity.at("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")


def _names_gpu(expression: Field) -> bool:
    is_known = expression["key"].text() in gpu_labels.vocabularies()
    return is_known and expression["operator"].text() == "In"


def _label_values(workload: Workload) -> Iterator[tuple[Field, str, str]]:
    """Field, key and value of everything by which the pod selects nodes for their GPU."""
    known = gpu_labels.vocabularies().keys()
    for key, field in workload.pod["nodeSelector"].entries():
        if key in known:
            yield field, key, field.text()
    for term in _terms(workload).items():
        for expression in term["matchExpressions"].items():
            key = expression["key"].text()
            if key in known and expression["operator"].text() == "In":
                for value in expression["values"].items():
                    yield value, key, value.text()


def _is_sliced(value: str) -> bool:
    return any(mark in value for mark in gpu_labels.SLICED)


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule(
        "gpu-request",
        workloads,
        gpu_request,
        "Set the same whole number as request and limit",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule("gpu-missing", workloads, gpu_missing, f"Set a limit of {GPU}"),
    Rule(
        "gpu-toleration",
        workloads,
        gpu_toleration,
        f"Add a toleration with the key {GPU} and the operator Exists",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "gpu-unplaced",
        workloads,
        gpu_unplaced,
        f"Require the bundle's GPU in every alternative, for example by {gpu_labels.PRODUCT}",
    ),
    Rule(
        "gpu-unknown",
        workloads,
        gpu_unknown,
        "Write the label as `kubectl get nodes --show-labels` shows it",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule("gpu-other", workloads, gpu_other, "Build a bundle for that GPU, or remove the value"),
    Rule("gpu-slice", workloads, gpu_slice, "Name the whole GPU"),
    Rule(
        "gpu-whole",
        workloads,
        gpu_whole,
        f"Add an expression that excludes them, for example {gpu_labels.SHARING} NotIn "
        "[time-slicing, mps]",
    ),
)
