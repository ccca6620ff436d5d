"""Rules for names: what they refer to, and what must not have two meanings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from ..images import parse_image
from .fields import Field
from .findings import ERROR, WARNING, Check, Problem, Rule
from .object_set import KubeObject, ObjectSet, every_object, workloads
from .workloads import Workload

_LABEL_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")

_PROVIDED: Final = ("kube-root-ca.crt", "openshift-service-ca.crt")
"""ConfigMaps that are in every namespace."""


def volume_missing(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The API server refuses a mount without a volume."""
    claims = workload.owner.root.at("spec", "volumeClaimTemplates")
    names = {v["name"].text() for v in workload.pod["volumes"].items()}
    if workload.owner.kind == "StatefulSet":
        names |= {claim.at("metadata", "name").text() for claim in claims.items()}
    for container in workload.all_containers:
        for _path, mount in container.mounts():
            if mount["name"].text() not in names:
                yield mount["name"].problem(f"there is no volume {mount['name'].text()}")


def claim_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """A pod without its claim is never scheduled."""
    for volume in workload.pod["volumes"].items():
        yield from _missing(
            "PersistentVolumeClaim", volume.at("persistentVolumeClaim", "claimName"), objects
        )


def config_map_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """A pod without its ConfigMap does not start."""
    references = [volume["configMap"] for volume in workload.pod["volumes"].items()]
    for container in workload.all_containers:
        references += [e.at("valueFrom", "configMapKeyRef") for _, e in container.env()]
        references += [e["configMapRef"] for e in container.field["envFrom"].items()]
    for reference in references:
        if not reference["optional"].flag():
            yield from _missing("ConfigMap", reference["name"], objects)


def account_missing(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """Pods of a service account that does not exist are not created."""
    account = workload.pod["serviceAccountName"]
    if account.text() != "default":
        yield from _missing("ServiceAccount", account, objects)


def _missing(kind: str, field: Field, objects: ObjectSet) -> Iterator[Problem]:
    name = field.text()
    if name and name not in _PROVIDED and objects.named(kind, name, field.owner) is None:
        yield field.problem(f"{kind}/{name} is not among these manifests")


def duplicate_variable(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The last one counts, whatever the first one says."""
    for container in workload.all_containers:
        seen: set[str] = set()
        for name, entry in container.env():
            if name in seen:
                yield entry["name"].problem(f"{container.name} sets {name} twice")
            seen.add(name)


def image_version(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Without a version, a restart may run other code than its neighbour."""
    for container in workload.all_containers:
        image = parse_image(container.image)
        if not image.digest and image.tag in ("", "latest"):
            reason = f"{container.image or 'nothing'} is no version: it has neither tag nor digest"
            yield container.field["image"].problem(
                reason if not image.tag else f"the tag of {container.image} may be another tomorrow"
            )


def label_value(item: KubeObject, objects: ObjectSet) -> Iterator[Problem]:
    """The API server refuses it."""
    fields = [item.metadata["labels"]]
    fields += [w.metadata["labels"] for w in objects.workloads if w.owner is item]
    for labels in {field.path: field for field in fields}.values():
        for _key, value in labels.entries():
            if not _LABEL_VALUE.fullmatch(value.text()):
                yield value.problem(f"{value.text()[:80]!r} cannot be the value of a label")


def _elsewhere(name: str, check: Check[Workload], mend: str) -> Rule[Workload]:
    """An error in what we wrote; in other manifests, it may be made by somebody else."""
    return Rule(name, workloads, check, mend, ERROR, WARNING, WARNING)


RULES: Final[tuple[Rule[Workload] | Rule[KubeObject], ...]] = (
    Rule(
        "volume-missing",
        workloads,
        volume_missing,
        "Add the volume to the pod",
        ERROR,
        ERROR,
        ERROR,
    ),
    _elsewhere("claim-missing", claim_missing, "Add the claim, or name one that exists"),
    _elsewhere("config-map-missing", config_map_missing, "Add it, or name one that exists"),
    _elsewhere("account-missing", account_missing, "Add it, or name one that exists"),
    _elsewhere("duplicate-variable", duplicate_variable, "Remove one of them"),
    _elsewhere("image-version", image_version, "Name the image by a version tag or a digest"),
    Rule(
        "label-value",
        every_object,
        label_value,
        "Use at most 63 letters, digits, '-', '_' and '.', with a letter or digit at both ends",
        ERROR,
        ERROR,
        ERROR,
    ),
)
