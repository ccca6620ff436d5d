"""How a bundle gets to its pods: one feature for each way."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ... import runtime
from ...core.result import MADE_BY
from ..gpu_labels import TOLERATIONS
from ..manifests import CLAIM_FILE, DEPLOYMENT, Feature, Manifests
from ..names import (
    APP,
    BUNDLE,
    BUNDLE_DIGEST,
    CHECK,
    CLAIM,
    FILL,
    FILLER,
    INSTANCE,
    SERVER,
    labels,
    name_for_bundle,
)
from ..objects.metadata import new
from ..objects.network_policy import download_policy
from ..objects.pod import CONTAINER_SECURITY, POD_SECURITY
from ..release import Release
from ..sizing import GIB, Sizes, quantity
from ..yaml_text import Object

CHECK_SCRIPT: Final = "check_bundle.py"
SCRIPT_SOURCE: Final = Path(runtime.__file__).with_name(CHECK_SCRIPT)
_SCRIPT_FOLDER: Final = "/opt/nemo-deploy"


def claim(manifests: Manifests) -> None:
    """The bundle is on a claim, which `nemo-deploy push` fills."""
    _claim(manifests, _PUSHED)
    _mount_claim(manifests)


def job(manifests: Manifests) -> None:
    """The bundle is on a claim, which a Job in the cluster fills."""
    release, sizes = manifests.release, manifests.sizes
    name = name_for_bundle(release.name, "fill", release.digest)
    _claim(manifests, _FILLED.format(job=name))
    _mount_claim(manifests)
    account = new(
        "v1", "ServiceAccount", f"{release.name}-fill",
        app=FILLER, instance=release.name, automountServiceAccountToken=False,
    )  # fmt: skip
    policy = download_policy(f"{release.name}-fill", release.name, FILLER)
    manifests.add("job-serviceaccount.yaml", account, _ACCOUNT_COMMENT)
    manifests.add("job-networkpolicy.yaml", policy, _POLICY_COMMENT)
    comment = _JOB_COMMENT.format(secret=release.options.token_secret, image=release.own_image)
    document = _job(release, sizes, name)
    document["spec"]["template"]["spec"]["affinity"] |= _near_gpus(manifests.pod)
    manifests.add("job.yaml", document, comment)
    manifests.fill = [
        CLAIM_FILE, "job-serviceaccount.yaml", "job-networkpolicy.yaml", "job.yaml",
    ]  # fmt: skip


def image(manifests: Manifests) -> None:
    """The bundle is part of the image that the containers run."""
    for container in manifests.containers:
        container["image"] = manifests.release.bundle_image
    _check_first(manifests, ["verify", BUNDLE], [])
    manifests.remark(DEPLOYMENT, _IMAGE_REMARK)


WAYS: Final[Mapping[str, Feature]] = {"job": job, "claim": claim, "image": image}
"""The feature of each way, by the value of `--weights`."""


def _claim(manifests: Manifests, filled: str) -> None:
    """The claim; it has one folder for each bundle."""
    release, options = manifests.release, manifests.release.options
    spec: Object = {
        "accessModes": ["ReadWriteMany" if options.several_pods else "ReadWriteOnce"],
        "resources": {"requests": {"storage": quantity(manifests.sizes.claim)}},
    }
    comment = (
        _CLAIM_COMMENT.format(keep=options.keep)
        + (_SEVERAL if options.several_pods else _ONE)
        + filled
    )
    if options.storage_class:
        spec = {"storageClassName": options.storage_class, **spec}
    else:
        comment += _DEFAULT_CLASS
    manifests.add(CLAIM_FILE, new("v1", "PersistentVolumeClaim", release.name, spec=spec), comment)


def _mount_claim(manifests: Manifests) -> None:
    """Mount the folder of the bundle, once the init container has checked it."""
    release = manifests.release
    manifests.pod["volumes"].append(_claim_volume(release))
    for container in manifests.containers:
        container["volumeMounts"].append(
            {"name": "bundle", "mountPath": BUNDLE, "subPath": release.digest, "readOnly": True}
        )
    _check_first(manifests, ["wait", CLAIM], [{"name": "bundle", "mountPath": CLAIM}])


def _claim_volume(release: Release) -> dict[str, Any]:
    return {"name": "bundle", "persistentVolumeClaim": {"claimName": release.name}}


def _check_first(manifests: Manifests, words: list[str], mounts: list[dict[str, Any]]) -> None:
    """An init container that lets the pod go on only with the bundle of this release. It mounts the
    whole claim, where there is one, because it marks the bundle as used."""
    release, served, pod = manifests.release, manifests.release.deployment, manifests.pod
    script = SCRIPT_SOURCE.read_text(encoding="utf-8")
    # The name changes with the content: a running pod keeps the script it was started with.
    content = hashlib.sha256(script.encode()).hexdigest()[:10]
    config_map = new("v1", "ConfigMap", f"{release.name}-check-{content}", instance=release.name)
    manifests.add("configmap.yaml", {**config_map, "data": {CHECK_SCRIPT: script}}, _SCRIPT_COMMENT)
    memory = {"memory": quantity(GIB), "ephemeral-storage": quantity(GIB)}
    pod["volumes"].append({"name": CHECK, "configMap": {"name": config_map["metadata"]["name"]}})
    pod["initContainers"] = [
        {
            "name": CHECK,
            "image": manifests.triton["image"],
            "imagePullPolicy": "IfNotPresent",
            "command": ["python3", f"{_SCRIPT_FOLDER}/{CHECK_SCRIPT}", *words],
            "args": [
                f"--digest={release.digest}",
                f"--kind={release.kind}",
                f"--model={served.model_name}",
                f"--gpu={served.gpu.key}",
                f"--quant={served.quant}",
            ],
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "resources": {
                "requests": {"cpu": manifests.sizes.cpu_request, **memory},
                "limits": {"cpu": manifests.sizes.cpu_limit, **memory},
            },
            "securityContext": CONTAINER_SECURITY,
            "volumeMounts": [
                *mounts,
                {
                    "name": CHECK,
                    "mountPath": f"{_SCRIPT_FOLDER}/{CHECK_SCRIPT}",
                    "subPath": CHECK_SCRIPT,
                    "readOnly": True,
                },
                {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
            ],
        }
    ]


def _job(release: Release, sizes: Sizes, name: str) -> Object:
    """The Job. Its template is immutable, so each bundle has a Job of its own."""
    template = {
        "metadata": {
            "labels": labels(release.name, FILLER),
            "annotations": {BUNDLE_DIGEST: release.digest},
        },
        "spec": _fill_pod(release, sizes),
    }
    spec = {
        "backoffLimit": 10,
        # An eviction or a drain is no failure, and what another try cannot mend ends the Job.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "FailJob",
                    "onExitCodes": {"containerName": FILL, "operator": "In", "values": [2, 3, 5]},
                },
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": template,
    }
    return new("batch/v1", "Job", name, app=FILLER, instance=release.name, spec=spec)


def _near_gpus(server: dict[str, Any]) -> dict[str, Any]:
    """A preference for nodes on which the server can run: many volumes can be used in one zone
    only, that of the node on which they are used first."""
    required = server.get("affinity", {}).get("nodeAffinity", {}).values()
    terms = [term for rule in required for term in rule["nodeSelectorTerms"]]
    preferred = [{"weight": 50, "preference": term} for term in terms]
    if not preferred:
        return {}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}


def _fill_pod(release: Release, sizes: Sizes) -> dict[str, Any]:
    disk = {"ephemeral-storage": quantity(sizes.tmp)}
    beside = {"matchLabels": {APP: SERVER, INSTANCE: release.name}}
    return {
        "restartPolicy": "Never",
        "serviceAccountName": f"{release.name}-fill",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": POD_SECURITY,
        "tolerations": [dict(toleration) for toleration in TOLERATIONS],
        "affinity": {
            "podAffinity": {
                "preferredDuringSchedulingIgnoredDuringExecution": [
                    {
                        "weight": 100,
                        "podAffinityTerm": {
                            "labelSelector": beside,
                            "topologyKey": "kubernetes.io/hostname",
                        },
                    }
                ]
            }
        },
        "containers": [
            {
                "name": FILL,
                "image": release.own_image,
                "imagePullPolicy": "IfNotPresent",
                "command": ["nemo-deploy", "fill", CLAIM],
                "args": [
                    f"--digest={release.digest}",
                    f"--keep={release.options.keep - 1}",
                    f"--made-by={MADE_BY}",
                    "--",
                    *release.build,
                ],
                "env": [
                    {"name": "HOME", "value": "/tmp"},  # noqa: S108 - a path in the container
                    {
                        "name": "HF_TOKEN",
                        "valueFrom": {
                            "secretKeyRef": {
                                "name": release.options.token_secret,
                                "key": "token",
                                "optional": True,
                            }
                        },
                    },
                ],
                "terminationMessagePolicy": "FallbackToLogsOnError",
                "resources": {
                    "requests": {
                        "cpu": sizes.fill_cpu_request,
                        "memory": quantity(sizes.fill_memory_request),
                        **disk,
                    },
                    "limits": {
                        "cpu": sizes.fill_cpu_limit,
                        "memory": quantity(sizes.fill_memory),
                        **disk,
                    },
                },
                "securityContext": CONTAINER_SECURITY,
                "volumeMounts": [
                    {"name": "bundle", "mountPath": CLAIM},
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
                ],
            }
        ],
        "volumes": [
            _claim_volume(release),
            {"name": "tmp", "emptyDir": {"sizeLimit": quantity(sizes.tmp)}},
        ],
    }


_SCRIPT_COMMENT: Final = """\
The script with which the init container check-bundle compares the bundle with its digests."""

_CLAIM_COMMENT: Final = """\
A folder for each bundle, named by its digest, so that a new one is made beside the one that is
served. There is room for {keep}; those that were not used for longest are deleted for the next one.
Deleting the claim deletes its data with most storage classes.
"""

_ONE: Final = """\
Every class supports ReadWriteOnce, which is enough for pods on one node.
"""

_SEVERAL: Final = """\
Pods on several nodes use the claim, so its class must support ReadWriteMany.
"""

_PUSHED: Final = """\
nemo-deploy push BUNDLE copies the bundle there."""

_FILLED: Final = """\
The Job {job} makes the bundle there."""

_DEFAULT_CLASS: Final = """
No storageClassName is set: the cluster's default class provides the volume. Without a default
class the claim stays pending. `kubectl get storageclass` lists the classes; --storage-class of
nemo-deploy build names one."""

_ACCOUNT_COMMENT: Final = "The Job's service account, without a token."

_POLICY_COMMENT: Final = """\
The Job downloads from the hub: names (port 53) and HTTPS (port 443), to any address. It is the one
exception from the rule that pods talk to nobody."""

_JOB_COMMENT: Final = """\
Makes the bundle on the claim, without a GPU: downloads the checkpoint, quantizes it, compares every
file with its digest. A pod that is killed or evicted is replaced, and goes on where it stopped. For
a gated repository, put a token into the entry `token` of the Secret {secret}.
It prefers the node of serving pods, because a ReadWriteOnce volume can be used on one node only,
and then nodes with such GPUs, because many volumes can be used in one zone only. It takes no GPU.
The image {image} is nemo-deploy's own: build it once from the Containerfile of the project."""

_IMAGE_REMARK: Final = """\
The image holds the bundle. `nemo-deploy image BUNDLE --push` builds it and pushes it."""
