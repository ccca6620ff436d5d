"""The Job of a load test, and the NetworkPolicy of its pods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ...runtime import contract
from ..helper_pod import helper_container, helper_pod
from ..names import INSTANCE, LOADER, SERVER, labels, name_for_bundle, selector
from ..objects.metadata import new
from ..objects.network_policy import client_policy
from ..objects.openai import KEYS_FOLDER, KEYS_PATH, KEYS_VOLUME
from ..objects.pod import CONTAINER_SECURITY
from ..yaml_text import Object

CONTAINER: Final = "loadtest"

LONGEST_S: Final = 12 * 3600
"""After so long the Job ends its pods, where the command that made it was killed."""

KEPT_S: Final = 300
"""How long a Job that has ended by itself stays."""

_TMP: Final = "64Mi"
RESOURCES: Final = {
    "requests": {"cpu": "500m", "memory": "512Mi", "ephemeral-storage": _TMP},
    # One process sends and measures; gRPC has threads of its own beside it.
    "limits": {"cpu": "2", "memory": "1Gi", "ephemeral-storage": _TMP},
}
"""What each pod requests, and its limits."""


def job(deployment: Object, image: str, pods: int, run: str) -> Object:
    """The Job that starts `pods` pods beside the pods of `deployment`; `run` (10 digits) tells it
    from that of another test.

    They run under the account of the servers: it has no token, and may have what an image needs to
    be pulled, or what OpenShift lets a user run. Their own network policy lets them reach
    the servers, and that of the servers lets in all pods of the namespace.
    """
    instance = deployment["metadata"]["name"]
    server = deployment["spec"]["template"]["spec"]
    keys = [volume for volume in server.get("volumes") or () if volume["name"] == KEYS_VOLUME]
    container = helper_container(
        CONTAINER,
        image,
        env=list(_environment(keys)),
        terminationMessagePolicy="FallbackToLogsOnError",
        resources=RESOURCES,
        securityContext=CONTAINER_SECURITY,
        volumeMounts=[
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
            *({"name": KEYS_VOLUME, "mountPath": KEYS_FOLDER, "readOnly": True} for _ in keys),
        ],
    )
    pod = helper_pod(
        server,
        container,
        serviceAccountName=server["serviceAccountName"],
        affinity=_apart(instance),
        volumes=[{"name": "tmp", "emptyDir": {"sizeLimit": _TMP}}, *keys],
    )
    spec = {
        "completions": pods,
        "parallelism": pods,
        "backoffLimit": 0,
        "activeDeadlineSeconds": LONGEST_S,
        "ttlSecondsAfterFinished": KEPT_S,
        "template": {"metadata": {"labels": labels(instance, LOADER)}, "spec": pod},
    }
    name = name_for_bundle(instance, "load", run)
    return new("batch/v1", "Job", name, app=LOADER, instance=instance, spec=spec)


def policy(job: Object) -> Object:
    """The network policy of the pods of `job`, which is as the API server has it. It is deleted
    together with the Job."""
    metadata = job["metadata"]
    document = client_policy(metadata["name"], metadata["labels"][INSTANCE], LOADER)
    owner = {"apiVersion": "batch/v1", "kind": "Job"}
    owner |= {key: metadata[key] for key in ("name", "uid")}
    document["metadata"]["ownerReferences"] = [owner]
    return document


def _environment(keys: list[Object]) -> Iterator[Object]:
    yield {"name": contract.HOME.name, "value": "/tmp"}  # noqa: S108 - a path in the container
    if keys:
        yield {"name": contract.OPENAI_KEYS.name, "value": KEYS_PATH}


def _apart(instance: str) -> Object:
    """A preference for other nodes than those of the servers, and of each other."""
    terms = [
        {
            "labelSelector": {"matchLabels": selector(instance, app)},
            "topologyKey": "kubernetes.io/hostname",
        }
        for app in (SERVER, LOADER)
    ]
    preferred = [{"weight": 100, "podAffinityTerm": term} for term in terms]
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
