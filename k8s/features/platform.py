"""What some clusters need of the pods: runtime class, addresses, user ids."""

from __future__ import annotations

from typing import Any

from ...runtime import contract
from ..manifests import DEPLOYMENT, Manifests
from ..names import OPENAI, TRITON

_OPENSHIFT = """\
No user or group is set: OpenShift gives the pod a user of the namespace's range, in group 0."""

_IDS = ("runAsUser", "runAsGroup", "fsGroup", "fsGroupChangePolicy")


def platform(manifests: Manifests) -> None:
    """Options about the cluster that change the serving pods."""
    options = manifests.release.options
    if options.runtime_class:
        manifests.pod["runtimeClassName"] = options.runtime_class
    if options.platform == "openshift":
        manifests.remark(DEPLOYMENT, _OPENSHIFT)
        for document in manifests.objects.values():
            if document["kind"] in ("Deployment", "Job"):
                _without_ids(document["spec"]["template"]["spec"])
    if options.ipv6:
        _listen_on_ipv6(manifests.containers)


def _without_ids(pod: dict[str, Any]) -> None:
    context = pod["securityContext"]
    pod["securityContext"] = {key: value for key, value in context.items() if key not in _IDS}


def _listen_on_ipv6(containers: list[dict[str, Any]]) -> None:
    """Triton and the endpoint listen on 0.0.0.0 by default, which IPv6-only pods do not have."""
    for container in containers:
        arguments, variables = container["args"], container["env"]
        if container["name"] == TRITON:
            arguments += [f"--{server}-address=::" for server in ("http", "grpc", "metrics")]
        if container["name"] == OPENAI:
            arguments[arguments.index("--host=0.0.0.0")] = "--host=::"
            arguments[arguments.index(f"--grpc=127.0.0.1:{contract.GRPC.number}")] = (
                f"--grpc=[::1]:{contract.GRPC.number}"
            )
        for variable in variables:
            if variable["name"] == contract.HEALTH_ADDRESS.name:
                variable["value"] = f"[::]:{contract.HEALTH.number}"
            if variable["name"] == contract.TRITON_ADDRESS.name:
                variable["value"] = f"[::1]:{contract.HTTP.number}"
