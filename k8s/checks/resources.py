"""Rules for memory, processors and disk."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from ..names import BUNDLE_BYTES, GPU
from ..sizing import GIB, shared_memory
from .fields import Field
from .findings import ERROR, WARNING, Problem, Rule
from .object_set import ObjectSet, workloads
from .placement import needs_gpu
from .workloads import Container, Workload

SHM: Final = "/dev/shm"  # noqa: S108 - a path in the container

_MEASURED: Final = ("cpu", "memory", "ephemeral-storage")


def resources_set(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """What asks for nothing is placed anywhere and evicted first; what has no limit takes all."""
    for container in workload.all_containers:
        for name in _MEASURED:
            request, limit = (container.resource(kind, name) for kind in ("requests", "limits"))
            if limit.quantity() is None:
                yield limit.problem(f"{container.name} has no limit of {name}")
            elif request.quantity() is None:
                yield request.problem(f"{container.name} has no request of {name}")


def request_above_limit(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The API server refuses it."""
    for container in workload.all_containers:
        for name in _MEASURED:
            request, limit = (container.resource(kind, name) for kind in ("requests", "limits"))
            asked, allowed = request.quantity(), limit.quantity()
            if asked is not None and allowed is not None and asked > allowed:
                yield request.problem(
                    f"the request {request.value} is above the limit {limit.value}"
                )


def shared_memory_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A container has 64 MB of shared memory by default, which is too little for a model's
    processes."""
    server = workload.server
    if server is None or not (workload.owner.is_ours or _gpu_count(server) > 1):
        return
    volume = _shm_volume(workload, server)
    if volume is None:
        yield server.field["volumeMounts"].problem(f"nothing is mounted at {SHM}")
    elif volume.at("emptyDir", "medium").text() != "Memory":
        yield volume.problem(f"{SHM} is not an emptyDir in memory")
    elif not volume.at("emptyDir", "sizeLimit").is_set:
        yield volume.at("emptyDir", "sizeLimit").problem(f"{SHM} has no limit")


def shared_memory_small(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A model's processes exchange tensors in shared memory, and end when it is full."""
    server = workload.server
    size = _shm_limit(workload, server) if server else None
    if server is None or size is None:
        return
    needed = shared_memory(_gpu_count(server) if needs_gpu(workload) else 0)
    if (size.quantity() or 0) < needed:
        yield size.problem(f"{size.value} of shared memory is less than the {_gib(needed)} planned")


def memory_below_need(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Weights pass through host memory, and shared memory counts against the same limit."""
    server = workload.server
    if server is None:
        return
    limit = server.resource("limits", "memory")
    allowed, size = limit.quantity(), _shm_limit(workload, server)
    weights, shm = workload.bundle_bytes or 0, (size.quantity() if size else None) or 0
    if allowed is not None and allowed < weights + shm:
        yield limit.problem(
            f"{limit.value} is less than the weights ({_gib(weights)}) and {SHM} ({_gib(shm)})"
        )


def claim_small(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """The bundle does not fit."""
    for size, offered in _claim_sizes(workload, objects):
        if offered < (bundle := workload.bundle_bytes or 0):
            yield size.problem(f"{size.value} is less than the bundle of {_gib(bundle)}")


def claim_room(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """A rollout keeps the old bundle until the new one is served."""
    for size, offered in _claim_sizes(workload, objects):
        if (bundle := workload.bundle_bytes or 0) <= offered < 2 * bundle:
            yield size.problem(f"{size.value} has no room for a second bundle of {_gib(bundle)}")


def _claim_sizes(workload: Workload, objects: ObjectSet) -> Iterator[tuple[Field, Fraction]]:
    """What each claim of a workload asks for, where that is among the objects."""
    for volume in workload.pod["volumes"].items():
        name = volume.at("persistentVolumeClaim", "claimName").text()
        claim = objects.named("PersistentVolumeClaim", name, workload.owner) if name else None
        size = claim.root.at("spec", "resources", "requests", "storage") if claim else None
        offered = size.quantity() if size else None
        if size is not None and offered is not None:
            yield size, offered


def bundle_size(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Limits and budgets are compared with the bundle's size."""
    if workload.server is not None and workload.bundle_bytes is None:
        annotations = workload.owner.metadata["annotations"]
        yield annotations[BUNDLE_BYTES].problem("is missing, or not a number")


def _gpu_count(container: Container) -> int:
    return next((int(f.quantity() or 1) for name, f in container.gpus() if name == GPU), 1)


def _shm_volume(workload: Workload, container: Container) -> Field | None:
    names = [mount["name"].text() for path, mount in container.mounts() if path == SHM]
    return workload.volume(names[0]) if names else None


def _shm_limit(workload: Workload, container: Container) -> Field | None:
    volume = _shm_volume(workload, container)
    size = volume.at("emptyDir", "sizeLimit") if volume else None
    return size if size is not None and size.is_set else None


def _gib(count: Fraction | int) -> str:
    return f"{float(count) / GIB:.3g} GiB"


RULES: Final[tuple[Rule[Workload], ...]] = (
    Rule(
        "resources-set",
        workloads,
        resources_set,
        "Set a request and a limit, as high as what was measured",
        ERROR,
        WARNING,
        WARNING,
    ),
    Rule(
        "request-above-limit",
        workloads,
        request_above_limit,
        "Lower the request or raise the limit",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule(
        "shared-memory-missing",
        workloads,
        shared_memory_missing,
        f"Mount an emptyDir with medium Memory and a sizeLimit at {SHM}",
        ERROR,
        WARNING,
    ),
    Rule("shared-memory-small", workloads, shared_memory_small, "Raise the sizeLimit"),
    Rule(
        "memory-below-need",
        workloads,
        memory_below_need,
        "Raise the limit of memory, or lower the sizeLimit of shared memory",
        ERROR,
        ERROR,
    ),
    Rule("claim-small", workloads, claim_small, "Ask for more storage"),
    Rule("claim-room", workloads, claim_room, "Ask for room for two bundles", WARNING),
    Rule("bundle-size", workloads, bundle_size, "Build the manifests again"),
)
