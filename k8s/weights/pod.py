"""The pod that a bundle is pushed to: it mounts the claim, has no GPU, and runs nothing."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from ...core.errors import BadInputError, CheckFailedError
from ...core.progress import Advance
from ..deploy.kubectl import FIELD_MANAGER, Kubectl
from ..deploy.snapshot import Object, condition, container_states, is_ending, is_true
from ..deploy.tree import Tree
from ..helper_pod import helper_container, helper_pod
from ..names import CHECK, CLAIM, INSTANCE, labels, name_for_bundle
from .transfer import RECEIVER

PUSHER: Final = "nemo-deploy-push"
"""The value of the label `app.kubernetes.io/name` on the pod, and its container's name."""

LIFE_S: Final = 24 * 3600
"""After so long the pod ends by itself, where the command that made it was killed."""

_POLL_S: Final = 2.0
_HOPELESS: Final = (
    "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName",
    "CreateContainerConfigError", "CreateContainerError",
)  # fmt: skip


def pod(tree: Tree, digest: str, image: str | None, bound: bool) -> Object:
    """The pod that takes over the bundle `digest` for the Deployment of `tree`.

    As long as the claim is not `bound`, the first pod that uses it decides where its volume is:
    then this one goes where the servers go.
    """
    template = tree.deployment["spec"]["template"]["spec"]
    server = template["containers"][0]
    check = next((c for c in template.get("initContainers", ()) if c["name"] == CHECK), server)
    affinity = {} if bound else dict(template.get("affinity") or {})
    affinity.pop("podAntiAffinity", None)
    beside = {"labelSelector": {"matchLabels": {INSTANCE: tree.name}}}
    affinity["podAffinity"] = {  # a ReadWriteOnce volume can be used on one node only
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 100, "podAffinityTerm": {**beside, "topologyKey": "kubernetes.io/hostname"}}
        ]
    }
    resources = {
        "requests": {"cpu": "500m", "memory": "256Mi"},
        "limits": {"cpu": "4", "memory": "1Gi"},
    }
    container = helper_container(
        PUSHER,
        image or server["image"],
        resources=resources,
        securityContext=check["securityContext"],
        volumeMounts=[{"name": "bundle", "mountPath": CLAIM}],
    )
    nodes = () if bound else ("nodeSelector",)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name_for_bundle(tree.name, "push", digest),
            "labels": labels(tree.name, PUSHER),
        },
        "spec": helper_pod(
            template,
            container,
            **{key: template[key] for key in nodes if key in template},
            affinity=affinity,
            activeDeadlineSeconds=LIFE_S,
            volumes=[{"name": "bundle", "persistentVolumeClaim": {"claimName": claim_of(tree)}}],
        ),
    }


def claim_of(tree: Tree) -> str:
    """The name of the claim that the servers mount. Raises `CheckFailedError` without one."""
    volumes = tree.deployment["spec"]["template"]["spec"].get("volumes") or ()
    for volume in volumes:
        if "persistentVolumeClaim" in volume:
            return str(volume["persistentVolumeClaim"]["claimName"])
    raise CheckFailedError(
        f"{tree.path}: the pods mount no claim that a bundle could be pushed to; build the bundle "
        "with --weights claim"
    )


def ensure_claim(kubectl: Kubectl, tree: Tree) -> Object:
    """The claim in the cluster; it is made as the manifests say where there is none. Raises
    `CheckFailedError` where they do not have it either."""
    name = claim_of(tree)
    found = kubectl.items("get", "persistentvolumeclaim", name, "--ignore-not-found")
    if found:
        return found[0]
    manifests = [c for c in tree.of("PersistentVolumeClaim") if c["metadata"]["name"] == name]
    if not manifests:
        raise CheckFailedError(
            f"there is no claim {name} in the namespace {kubectl.namespace}, and none in "
            f"{tree.path}; create it"
        )
    return _applied(kubectl, manifests[0])


def _applied(kubectl: Kubectl, item: Object) -> Object:
    arguments = ("apply", "--server-side", f"--field-manager={FIELD_MANAGER}", "--filename=-")
    return kubectl.call(*arguments, "--output=json", stdin=json.dumps(item)).objects[0]


@contextmanager
def running(
    kubectl: Kubectl, item: Object, advance: Advance, timeout_s: float
) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Run the pod `item`, or use the one of that name that runs; deleted when the block ends.

    Gives a function that starts the receiver in it, and starts the pod again where it is gone.
    `advance` is told what the pod waits for. Raises `BadInputError` where the pod does not run
    within `timeout_s`, and at once where it never will.
    """
    name = item["metadata"]["name"]

    def connect() -> subprocess.Popen[bytes]:
        _ensure_running(kubectl, item, advance, timeout_s)
        return kubectl.start("exec", "--stdin", name, f"--container={PUSHER}", "--", *RECEIVER)

    try:
        yield connect
    finally:
        kubectl.call("delete", "pod", name, "--ignore-not-found", "--wait=false", finish=True)


def _ensure_running(kubectl: Kubectl, item: Object, advance: Advance, timeout_s: float) -> None:
    name, deadline = item["metadata"]["name"], time.monotonic() + timeout_s
    why = ""
    while True:
        pods = kubectl.items("get", "pod", name, "--ignore-not-found")
        if pods and is_true(pods[0], "Ready") and not is_ending(pods[0]):
            return
        if not pods:
            _applied(kubectl, item)
        elif pods[0]["status"].get("phase") in ("Failed", "Succeeded"):
            kubectl.call("delete", "pod", name, "--ignore-not-found")
        else:
            why = _waits_for(kubectl, pods[0])
            advance(0, why)
        if pods and time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    raise BadInputError(
        f"pod {name} does not run after {timeout_s:.0f} s: {why or 'no reason was given'}; see "
        f"{kubectl.typed('describe', 'pod', name)}"
    )


def _waits_for(kubectl: Kubectl, item: Object) -> str:
    """What keeps the pod from running. Raises `BadInputError` where it never will."""
    for status in container_states(item):
        waiting: dict[str, Any] = (status.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in _HOPELESS:
            raise BadInputError(
                f"pod {item['metadata']['name']}: {waiting['reason']}: "
                f"{waiting.get('message', 'no message')}. The image must be one that the cluster "
                "can pull and that has python3; name another with --image"
            )
        if waiting:
            return str(waiting.get("message") or waiting["reason"])
    scheduled = condition(item, "PodScheduled")
    if scheduled.get("status") == "False":
        return str(scheduled.get("message") or scheduled.get("reason"))
    events = kubectl.items(
        "get", "events", f"--field-selector=involvedObject.uid={item['metadata']['uid']}"
    )
    warnings = [event["message"] for event in events if event.get("type") == "Warning"]
    return " ".join(str(warnings[-1]).split()) if warnings else "starting"
