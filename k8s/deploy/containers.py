"""Why a pod's containers do not start, do not stay, or do not become ready."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .diagnosis import Diagnosis
from .snapshot import Object, Snapshot, container_states, is_true, title

CRASHES: Final = 2
"""After how many restarts a crash counts as one that waiting does not heal."""

_IMAGE: Final = (
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
    "RegistryUnavailable", "ImageInspectError",
)  # fmt: skip
_CONFIG: Final = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")
_FOREVER: Final = re.compile(
    r"not found|manifest unknown|no match for platform|invalid reference|pull policy of Never|"
    r"unauthorized|denied|forbidden|authorization failed|authentication"
)
_NO_DRIVER: Final = re.compile(
    r"libcuda\.so|NVIDIA Driver was not detected|Failed to initialize NVML|libnvidia-ml|"
    r"no CUDA-capable device|No CUDA GPUs are available"
)
_LAST_WORDS: Final = 400
"""How many characters of a container's last words are quoted."""


def not_pulled(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Images that the node cannot pull."""
    for pod, status, waiting in _waiting(snapshot, _IMAGE):
        image, reason = status["image"], _pull_failure(snapshot, pod, waiting)
        action = "check the name and the node's way to the registry"
        if image.startswith("localhost/"):
            action = "push the image to a registry and build again with --registry"
        elif re.search(r"unauthorized|denied|forbidden|authori|authentication", reason):
            action = "give the service account an imagePullSecret for the registry"
        elif re.search(r"not found|manifest unknown", reason):
            action = "push the image, or build again with the --registry that has it"
        yield Diagnosis(
            "image",
            f"{title(pod)}: the image {image} is not pulled: {reason}",
            action,
            heals=not _FOREVER.search(reason),
        )


def _pull_failure(snapshot: Snapshot, pod: Object, waiting: Object) -> str:
    """The registry's reason; older kubelets give it in an event only."""
    text = str(waiting.get("message") or "")
    for event in reversed(snapshot.events(pod)):
        if str(event.get("message", "")).startswith("Failed to pull image"):
            text = event["message"].partition(": ")[2] or text
            break
    text = re.sub(r"^Back-off pulling image \S+ ErrImagePull: ", "", text)
    text = re.sub(r"rpc error: code = \w+ desc = ", "", text)
    return " ".join(text.split()) or str(waiting["reason"])


def not_created(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Containers and sandboxes that the container runtime cannot make."""
    for pod, status, waiting in _waiting(snapshot, _CONFIG):
        message = " ".join(str(waiting.get("message") or waiting["reason"]).split())
        text = f"{title(pod)}: the container {status['name']} is not created: {message}"
        action = "create what the message names, or correct its name"
        if "nvidia" in message:
            action = "check the driver and NVIDIA's container toolkit on the node"
        yield Diagnosis("container-config", text, action, heals="not found" in message)
    for pod in snapshot.watched_pods:
        failed = [e for e in snapshot.events(pod) if e.get("reason") == "FailedCreatePodSandBox"]
        if failed and not is_true(pod, "PodReadyToStartContainers"):
            yield _no_sandbox(pod, " ".join(failed[-1]["message"].split()))


def _no_sandbox(pod: Object, message: str) -> Diagnosis:
    handler = re.search(r'no runtime for "([^"]+)" is configured', message)
    if handler:
        return Diagnosis(
            "runtime-class",
            f"{title(pod)}: the node has no container runtime {handler[1]}, which the pod's "
            "RuntimeClass names",
            "install NVIDIA's container toolkit or the GPU operator on the node, or build again "
            "without --runtime-class",
            heals=False,
        )
    action = "see the node's network plugin and container runtime"
    return Diagnosis("container-config", f"{title(pod)}: {message}", action, heals=True)


def crashed(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Containers that ended with an error and are to be started again."""
    for pod in snapshot.new_pods:
        for status in container_states(pod):
            ended = _ended(status)
            if ended is not None:
                yield _crash(snapshot, pod, status, ended)


def _ended(status: Object) -> Object | None:
    """How a container that is not running well ended last; None for one that did not fail."""
    now, before = status.get("state") or {}, status.get("lastState") or {}
    if "terminated" in now:
        return now["terminated"] if now["terminated"].get("exitCode") else None
    if status.get("ready") or (now.get("running") and status.get("started")):
        return None
    ended: Object | None = before.get("terminated")
    return ended if ended and ended.get("exitCode") else None


def _crash(snapshot: Snapshot, pod: Object, status: Object, ended: Object) -> Diagnosis:
    name, restarts = status["name"], status.get("restartCount", 0)
    where = f"{title(pod)}: the container {name}"
    kubectl, heals = snapshot.target.kubectl, restarts < CRASHES
    log = f"{kubectl} logs {pod['metadata']['name']} -c {name} --previous"
    if ended.get("reason") == "OOMKilled":
        limit = _memory_limit(pod, name)
        action = "raise requests and limits of memory in an overlay of your own, or build for less"
        text = f"{where} was killed because it exceeded its memory limit{limit}"
        return Diagnosis("memory", f"{text} ({restarts} restarts)", action, heals)
    words = last_words(ended.get("message") or "")
    killed = _killed_by_probe(snapshot, pod, name)
    if killed and ended.get("exitCode") in (137, 143):
        text = f"{where} was ended because its probe failed: {killed}"
        return Diagnosis("probe", f"{text} ({restarts} restarts)", f"see {log}", heals)
    if _NO_DRIVER.search(words):
        return _without_driver(snapshot, pod, where, words)
    said = f": {words}" if words else " without a message"
    text = f"{where} ended with exit code {ended.get('exitCode')}{said} ({restarts} restarts)"
    return Diagnosis("crash", text, f"see {log}", heals)


def _without_driver(snapshot: Snapshot, pod: Object, where: str, words: str) -> Diagnosis:
    """A container that does not see the driver: the node's default runtime is not NVIDIA's."""
    classes = [c["metadata"]["name"] for c in snapshot.of("RuntimeClass")]
    named = pod["spec"].get("runtimeClassName")
    action = "check the driver and NVIDIA's container toolkit on the node"
    if not named and ("nvidia" in classes or "RuntimeClass" in snapshot.unreadable):
        action = "build again with --runtime-class nvidia, which this cluster needs"
    text = f"{where} does not see the GPU's driver: {words}"
    return Diagnosis("runtime-class", text, action, heals=False)


def _memory_limit(pod: Object, name: str) -> str:
    containers = [*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"]]
    spec: Object = next((c for c in containers if c["name"] == name), {})
    limit = ((spec.get("resources") or {}).get("limits") or {}).get("memory")
    return f" of {limit}" if limit else ""


def _killed_by_probe(snapshot: Snapshot, pod: Object, name: str) -> str:
    """The kubelet's words when it last ended the container for a probe; else empty."""
    for event in reversed(snapshot.events(pod)):
        message = str(event.get("message", ""))
        if event.get("reason") == "Killing" and f"ontainer {name} failed" in message:
            return message
    return ""


def probed(snapshot: Snapshot) -> Iterator[Diagnosis]:
    """Containers that had started and are no longer ready."""
    for pod in snapshot.new_pods:
        for status in container_states(pod):
            running = (status.get("state") or {}).get("running")
            if not running or not status.get("started") or status.get("ready"):
                continue
            failed = [e for e in snapshot.events(pod) if _is_about(e, status["name"])]
            if failed:
                text = " ".join(failed[-1]["message"].split())
                yield Diagnosis(
                    "probe",
                    f"{title(pod)}: the container {status['name']} is not ready: {text}",
                    f"see {snapshot.target.kubectl} logs {pod['metadata']['name']} -c "
                    f"{status['name']}",
                    heals=True,
                )


def _is_about(event: Object, container: str) -> bool:
    """Whether an event says that a probe of the container failed, after its start."""
    path = event.get("involvedObject", {}).get("fieldPath", "")
    starts = str(event.get("message", "")).startswith("Startup probe")
    return event.get("reason") == "Unhealthy" and f"{{{container}}}" in path and not starts


def last_words(text: str) -> str:
    """The line of a termination message that says why: of a server's log, the last error."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    failed = [line for line in lines if "failed to load '" in line or "StartError" in line]
    telling = [line for line in lines if re.search(r"[Ee]rror\b|fatal|refus", line)]
    line = (failed or telling[-1:] or lines[-1:] or [""])[-1]
    line = re.sub(r"^[EIW]\d{4} [\d:.]+ \d+ \S+\] ", "", line).strip('"| ')
    return line if len(line) <= _LAST_WORDS else f"{line[:_LAST_WORDS]}…"


def _waiting(
    snapshot: Snapshot, reasons: tuple[str, ...]
) -> Iterator[tuple[Object, Object, Object]]:
    """Pod, container status and waiting state of the containers that wait for such a reason."""
    for pod in snapshot.watched_pods:
        for status in container_states(pod):
            waiting = (status.get("state") or {}).get("waiting")
            if waiting and waiting.get("reason") in reasons:
                yield pod, status, waiting
