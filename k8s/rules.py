"""Our own rules: mistakes that break an LLM server on GPUs and that no schema or linter finds.

A rule is a function from one rendered overlay to the problems in it; each problem names its object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from ..runtime.contract import EXECUTOR, GRPC, HTTP, OFFLINE, OPENAI
from .gpu_labels import vocabularies
from .images import parse_image
from .manifest import (
    GPU,
    Rendered,
    amount,
    containers,
    flags,
    pod,
    pod_labels,
    pre_stop_seconds,
    resource,
    seconds,
    startup_seconds,
    triton,
)
from .names import BUNDLE, BUNDLE_BYTES
from .names import OPENAI as SIDECAR
from .sizing import startup_seconds as startup_needed
from .yaml_text import Object, title

Rule = Callable[[Rendered], Iterator[str]]


def gpu_request(rendered: Rendered) -> Iterator[str]:
    """The GPU request equals the limit and is a whole number, as the device plugin requires."""
    for document in rendered.of_kind("Deployment"):
        server = triton(document)
        if not needs_gpus(document) or pod(document).get("resourceClaims"):
            continue
        request, limit = (resource(server, kind, GPU) for kind in ("requests", "limits"))
        if limit is None or request != limit or limit < 1 or limit % 1:
            yield f"{title(document)}: {GPU}: request {request}, limit {limit}; must be equal, >= 1"


def gpu_placement(rendered: Rendered) -> Iterator[str]:
    """The pod runs only on the GPU of the bundle, whose nodes are usually tainted."""
    for document in rendered.of_kind("Deployment"):
        spec = pod(document)
        if not needs_gpus(document):
            continue
        if not any(t.get("key") == GPU for t in spec.get("tolerations", [])):
            yield f"{title(document)}: does not tolerate the taint {GPU}"
        affinity = spec.get("affinity", {}).get("nodeAffinity", {})
        required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
        terms = required.get("nodeSelectorTerms", [])
        if spec.get("resourceClaims") or vocabularies().keys() & spec.get("nodeSelector", {}):
            continue
        # Terms are alternatives: one without the product would let any node in.
        if not terms or not all(_names_product(term) for term in terms):
            yield f"{title(document)}: no required node affinity on {GPU}.product"


def needs_gpus(document: Object) -> bool:
    """Whether an engine serves, and not the reference executor."""
    env = {entry["name"]: entry.get("value") for entry in triton(document).get("env", [])}
    return env.get(EXECUTOR.name) != "reference"


def _names_product(term: Mapping[str, list[dict[str, object]]]) -> bool:
    return any(
        e.get("key") in vocabularies() and e.get("operator") == "In" and e.get("values")
        for e in term.get("matchExpressions", [])
    )


def shared_memory(rendered: Rendered) -> Iterator[str]:
    """Shared memory is more than the default 64 MB, bounded, and within the memory limit."""
    for document in rendered.of_kind("Deployment"):
        server, volumes = triton(document), pod(document).get("volumes", [])
        mounted = {m["name"] for m in server.get("volumeMounts", []) if m["mountPath"] == _SHM}
        found = [v.get("emptyDir", {}) for v in volumes if v["name"] in mounted]
        if not found or found[0].get("medium") != "Memory" or "sizeLimit" not in found[0]:
            yield f"{title(document)}: {_SHM} is not an emptyDir in memory with a sizeLimit"
            continue
        size, limit = amount(found[0]["sizeLimit"]), resource(server, "limits", "memory")
        if limit is None or size >= limit:
            yield f"{title(document)}: {_SHM} ({size:.0f} bytes) is not below the memory limit"


_SHM: Final = "/dev/shm"  # noqa: S108 - a path in the container


def resources_set(rendered: Rendered) -> Iterator[str]:
    """Every container has requests and limits."""
    for document in rendered.of_kind("Deployment"):
        for container in containers(document):
            for name in ("cpu", "memory", "ephemeral-storage"):
                pair = [resource(container, kind, name) for kind in ("requests", "limits")]
                if pair[0] is None or pair[1] is None or pair[0] > pair[1]:
                    where = f"{title(document)}: container {container['name']}"
                    yield f"{where}: {name}: needs a request and a limit that is not below it"


def startup_budget(rendered: Rendered) -> Iterator[str]:
    """The startup probe allows for a cold start from slow storage."""
    for document in rendered.of_kind("Deployment"):
        recorded = document["metadata"].get("annotations", {}).get(BUNDLE_BYTES, "")
        if not recorded.isdecimal():
            yield f"{title(document)}: the annotation {BUNDLE_BYTES} is missing or not a number"
            continue
        budget, needed = startup_seconds(triton(document)), startup_needed(int(recorded))
        if budget < needed:
            yield f"{title(document)}: the startup probe allows {budget} s of {needed} s needed"
        if document["spec"].get("progressDeadlineSeconds", 600) <= budget:
            yield f"{title(document)}: progressDeadlineSeconds must exceed the startup probe's"


def draining(rendered: Rendered) -> Iterator[str]:
    """A stop waits for endpoints, then for generations; clients reconnect before ports close."""
    for document in rendered.of_kind("Deployment"):
        server, where = triton(document), title(document)
        given, sleep = flags(server), pre_stop_seconds(server)
        timeout = seconds(given, "--exit-timeout-secs")
        age = seconds(given, "--grpc-max-connection-age", 1e-3)
        grace = pod(document).get("terminationGracePeriodSeconds", 30)
        if timeout is None or grace < sleep + timeout:
            yield f"{where}: grace {grace} s < preStop {sleep} s + --exit-timeout-secs {timeout}"
        # gRPC spreads the age by 10 %.
        if age is None or age * 1.1 >= sleep:
            yield f"{where}: --grpc-max-connection-age ({age} s) must be below preStop's {sleep} s"
        if "--grpc-max-connection-age-grace" in given:
            yield f"{where}: --grpc-max-connection-age-grace cuts long streams; remove it"


def openai_endpoint(rendered: Rendered) -> Iterator[str]:
    """The OpenAI endpoint runs Triton's image, reaches it in the pod, and drains as long."""
    for document in rendered.of_kind("Deployment"):
        server, where = triton(document), title(document)
        for container in containers(document):
            if container["name"] != SIDECAR:
                continue
            given, sleep = flags(container), pre_stop_seconds(container)
            if container.get("image") != server.get("image"):
                yield f"{where}: the containers triton and {SIDECAR} have different images"
            if not given.get("--grpc", "").startswith(("127.0.0.1:", "[::1]:")):
                yield f"{where}: container {SIDECAR}: --grpc must be Triton in the same pod"
            if sleep != pre_stop_seconds(server):
                yield f"{where}: container {SIDECAR}: preStop must sleep as long as triton's"
            if seconds(given, "--grace") != seconds(flags(server), "--exit-timeout-secs"):
                yield f"{where}: container {SIDECAR}: --grace must be --exit-timeout-secs"


def api_keys(rendered: Rendered) -> Iterator[str]:
    """API keys are in no file of the tree: the endpoint reads them from a Secret of the cluster, in
    a volume that changes with it."""
    for document in rendered.of_kind("Secret"):
        yield f"{title(document)}: holds secrets; leave it out and refer to one in the cluster"
    for document in rendered.of_kind("Deployment"):
        for container in containers(document):
            if container["name"] != SIDECAR:
                continue
            where, given = f"{title(document)}: container {SIDECAR}", flags(container)
            path = given.get("--api-keys")
            if path is None and "--without-keys" not in given:
                yield f"{where}: needs --api-keys, --without-keys or both"
            if path is not None and not _is_in_secret(path, container, pod(document)):
                yield f"{where}: --api-keys is not in a volume of a Secret (without subPath)"


def _is_in_secret(path: str, container: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    secrets = {volume["name"] for volume in spec.get("volumes", []) if "secret" in volume}
    return any(
        path.startswith(f"{mount['mountPath']}/")
        and mount["name"] in secrets
        and "subPath" not in mount
        for mount in container.get("volumeMounts", [])
    )


def no_surge(rendered: Rendered) -> Iterator[str]:
    """A rollout stops the old pod before it starts the new one, as there is no spare GPU."""
    for document in rendered.of_kind("Deployment"):
        strategy = document["spec"].get("strategy", {})
        if strategy.get("type") == "Recreate":
            continue
        update = strategy.get("rollingUpdate", {})
        if (update.get("maxSurge"), update.get("maxUnavailable")) not in ((0, 1), (1, 0)):
            yield f"{title(document)}: a rollout must exchange one pod at a time"


def pinned_images(rendered: Rendered) -> Iterator[str]:
    """Every image has a version tag or a digest."""
    for document in rendered.of_kind("Deployment"):
        for container in containers(document):
            image = parse_image(container.get("image", ""))
            if not image.digest and image.tag in ("", "latest"):
                where = f"{title(document)}: container {container['name']}"
                yield f"{where}: the image has neither a version tag nor a digest"


def private_ports(rendered: Rendered) -> Iterator[str]:
    """Services expose inference only, inside the cluster, on ports that exist."""
    ports = {
        port.get("name")
        for document in rendered.of_kind("Deployment")
        for container in containers(document)
        for port in container.get("ports", [])
    }
    for document in rendered.of_kind("Service"):
        if document["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{title(document)}: reachable from outside; Triton has no authentication"
        for port in document["spec"].get("ports", []):
            target = port.get("targetPort")
            if target not in ports & {GRPC.name, HTTP.name, OPENAI.name}:
                where = f"{title(document)}: port {port['port']}"
                yield f"{where}: targets {target}, not the pods' grpc, http or openai port"


def selectors(rendered: Rendered) -> Iterator[str]:
    """Services, disruption budgets and network policies select the pods of this overlay."""
    pods = [pod_labels(document) for document in rendered.of_kind("Deployment", "Job")]
    for document in rendered.of_kind("Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = document["spec"]
        chosen = spec.get("podSelector") or spec.get("selector") or {}
        wanted = chosen.get("matchLabels", {}) if "matchLabels" in chosen else chosen
        if not wanted or not any(wanted.items() <= labels.items() for labels in pods):
            yield f"{title(document)}: selects no pod of this overlay"


def restricted(rendered: Rendered) -> Iterator[str]:
    """Pods meet Pod Security `restricted`, with a read-only root and no API token."""
    for document in rendered.of_kind("Deployment"):
        spec, where = pod(document), title(document)
        context = spec.get("securityContext", {})
        if not context.get("runAsNonRoot"):
            yield f"{where}: must run as a user other than root"
        if context.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{where}: seccompProfile must be RuntimeDefault"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{where}: automountServiceAccountToken must be false"
        if any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{where}: uses a namespace of the host"
        if any("hostPath" in volume for volume in spec.get("volumes", [])):
            yield f"{where}: mounts a path of the host"
        for container in containers(document):
            if not _is_confined(container.get("securityContext", {})):
                yield f"{where}: container {container['name']}: not confined (securityContext)"


def _is_confined(context: Mapping[str, object]) -> bool:
    capabilities = context.get("capabilities")
    return (
        context.get("allowPrivilegeEscalation") is False
        and context.get("readOnlyRootFilesystem") is True
        and isinstance(capabilities, dict)
        and capabilities.get("drop") == ["ALL"]
        and not capabilities.get("add")
    )


def fixed_models(rendered: Rendered) -> Iterator[str]:
    """Triton serves the bundle only: it loads, completes, writes and downloads nothing else."""
    for document in rendered.of_kind("Deployment"):
        server, where = triton(document), title(document)
        given = flags(server)
        if given.get("--model-control-mode", "none") != "none":
            yield f"{where}: --model-control-mode must be none"
        if "--disable-auto-complete-config" not in given:
            yield f"{where}: --disable-auto-complete-config is missing"
        if needs_gpus(document) and seconds(given, "--grpc-max-response-pool-size") is None:
            yield f"{where}: --grpc-max-response-pool-size is missing (slow readers take memory)"
        mounts = {m["mountPath"]: m for m in server.get("volumeMounts", [])}
        if BUNDLE in mounts and not mounts[BUNDLE].get("readOnly"):
            yield f"{where}: {BUNDLE} must be mounted read-only"
        env = {entry["name"]: entry.get("value") for entry in server.get("env", [])}
        for name in OFFLINE:
            if env.get(name) != "1":
                yield f"{where}: the environment variable {name} must be 1"


RULES: Final[Mapping[str, Rule]] = {
    "GPU request": gpu_request,
    "GPU placement": gpu_placement,
    "shared memory": shared_memory,
    "resources": resources_set,
    "start-up budget": startup_budget,
    "draining": draining,
    "OpenAI endpoint": openai_endpoint,
    "API keys": api_keys,
    "no surge": no_surge,
    "pinned images": pinned_images,
    "private ports": private_ports,
    "selectors": selectors,
    "restricted pods": restricted,
    "fixed models": fixed_models,
}
"""Every rule, by the name of its check."""
