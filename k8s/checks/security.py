"""Rules for what a pod may do on its node, and for secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from .fields import Field
from .findings import ERROR, WARNING, Check, Problem, Rule
from .object_set import KubeObject, ObjectSet, kind, workloads
from .workloads import Workload

_HOST_NAMESPACES: Final = ("hostNetwork", "hostPID", "hostIPC")

_ADDED: Final = ("NET_BIND_SERVICE",)
"""The only capability that the level `restricted` of Pod Security lets a container add."""

_VOLUMES: Final = frozenset((
    "name", "hostPath", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image",
    "persistentVolumeClaim", "projected", "secret",
))  # fmt: skip
"""Types of volumes that pods may have; `host_path` is about one of them."""

_SECRET_WORDS: Final = frozenset(("TOKEN", "SECRET", "PASSWORD", "PASSWD", "CREDENTIAL", "APIKEY"))
_SECRET_PAIRS: Final = frozenset(
    (("API", "KEY"), ("ACCESS", "KEY"), ("PRIVATE", "KEY"), ("SECRET", "KEY"), ("AUTH", "KEY"))
)
_SECRET_VALUE: Final = re.compile(
    r"hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|nvapi-[A-Za-z0-9_-]{20,}"
    r"|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Tokens that can be told by their form: of Hugging Face, GitHub, OpenAI, NVIDIA and AWS."""

_PLAIN: Final = re.compile(r"|[0-9.]+|true|false|none|null|EMPTY|/.*|\$\(.*\)", re.IGNORECASE)
"""Values that are no secret: numbers, switches, paths, references, and vLLM's word for no key."""


def privileged(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A privileged container is root on its node."""
    for context in _contexts(workload):
        if context["privileged"].flag():
            yield context["privileged"].problem("the container is privileged")


def privilege_escalation(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A program with setuid could become root."""
    for context in _contexts(workload):
        field = context["allowPrivilegeEscalation"]
        if field.flag(default=True) and not context["privileged"].flag():
            yield field.problem("programs in the container can gain privileges")


def writable_root(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """What takes over a server could change its programs."""
    for context in _contexts(workload):
        if not context["readOnlyRootFilesystem"].flag():
            yield context["readOnlyRootFilesystem"].problem("the root file system is writable")


def capabilities(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A server needs none of the capabilities that containers have by default."""
    for context in _contexts(workload):
        dropped, added = context.at("capabilities", "drop"), context.at("capabilities", "add")
        if "ALL" not in (word.upper() for word in dropped.texts()):
            yield dropped.problem("capabilities are not dropped")
        for capability in added.items():
            if capability.text() not in _ADDED:
                yield capability.problem(f"adds the capability {capability.text()}")


def root_user(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Root in a container is root on the node for everything that escapes from it."""
    pod = workload.pod["securityContext"]
    for context in _contexts(workload):
        user = _inherited(context, pod, "runAsUser")
        if user.integer(1) == 0:
            yield user.problem("the container runs as root")
        elif not _inherited(context, pod, "runAsNonRoot").flag():
            yield _inherited(context, pod, "runAsNonRoot").problem("the container may run as root")


def seccomp(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """The runtime's profile blocks system calls that no server needs."""
    pod = workload.pod["securityContext"]
    for context in _contexts(workload):
        profile = _inherited(context, pod, "seccompProfile")
        if profile["type"].text() not in ("RuntimeDefault", "Localhost"):
            yield profile.problem("system calls are not restricted")


def host_namespaces(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Such a pod sees the processes or the network of its node."""
    for name in _HOST_NAMESPACES:
        if workload.pod[name].flag():
            yield workload.pod[name].problem("the pod is in a namespace of its node")


def host_path(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """A directory of the node is shared with everything on it."""
    for volume in workload.pod["volumes"].items():
        if volume["hostPath"].is_set:
            path = volume.at("hostPath", "path").text()
            yield volume["hostPath"].problem(f"mounts {path or 'a directory'} of the node")


def volume_type(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Other types reach past the cluster's storage classes, and Pod Security refuses them."""
    for volume in workload.pod["volumes"].items():
        for name, field in volume.entries():
            if name not in _VOLUMES and field.is_set:
                yield field.problem(f"Pod Security restricted has no volumes of the type {name}")


def host_port(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """It is reachable from outside of the cluster, and only one pod fits on a node."""
    for container in workload.all_containers:
        for port in container.field["ports"].items():
            if port["hostPort"].integer(0):
                yield port["hostPort"].problem("takes a port of the node")


def proc_mount(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """An unmasked /proc shows what the node does."""
    for context in _contexts(workload):
        if context["procMount"].text() not in ("", "Default"):
            yield context["procMount"].problem("/proc is not masked")


def sysctls(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Sysctls that are not safe change the node for all pods."""
    for sysctl in workload.pod.at("securityContext", "sysctls").items():
        name = sysctl["name"].text()
        if not re.fullmatch(r"net\.ipv4\.\w+|kernel\.shm_rmid_forced", name):
            yield sysctl.problem(f"sets {name}")


def api_token(workload: Workload, objects: ObjectSet) -> Iterator[Problem]:
    """A server never calls the Kubernetes API; a token in its pod is one that can be stolen."""
    token = workload.pod["automountServiceAccountToken"]
    name = workload.pod["serviceAccountName"].text()
    account = objects.named("ServiceAccount", name, workload.owner) if name else None
    default = account.root["automountServiceAccountToken"].flag(default=True) if account else True
    if token.flag(default=default):
        yield token.problem("a token of the service account is mounted")


def default_account(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """What somebody lets the default account do, every pod of the namespace can do."""
    account = workload.pod["serviceAccountName"]
    if account.text() in ("", "default"):
        yield account.problem("the pod runs under the default service account")


def plain_secret(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Everybody who can read the manifest, or the pod, can read it."""
    for container in workload.all_containers:
        for name, entry in container.env():
            value = entry["value"].text()
            if _SECRET_VALUE.search(value) or (_is_secret(name) and not _PLAIN.fullmatch(value)):
                yield entry["value"].problem(f"{name} is in the manifest")
        for flag, value in container.flags.items():
            name = flag.lstrip("-").replace("-", "_").upper()
            if _SECRET_VALUE.search(value) or (_is_secret(name) and not _PLAIN.fullmatch(value)):
                yield container.argument(flag).problem(f"{flag} is in the manifest")


def _is_secret(name: str) -> bool:
    """Whether a name is that of a secret: `HF_TOKEN`, not `MAX_TOKENS` or `TOKEN_LIMIT`."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    return words[-1] in _SECRET_WORDS or tuple(words[-2:]) in _SECRET_PAIRS


def secret_variable(workload: Workload, _: ObjectSet) -> Iterator[Problem]:
    """Variables are inherited by every child process, and end up in logs and crash reports."""
    for container in workload.all_containers:
        for name, entry in container.env():
            reference = entry.at("valueFrom", "secretKeyRef")
            if reference.is_set:
                yield reference.problem(f"{name} is a secret in the environment")


def secret_object(secret: KubeObject, _: ObjectSet) -> Iterator[Problem]:
    """Manifests are stored and passed on; a Secret in them is only encoded."""
    for name in ("data", "stringData"):
        if secret.root[name].mapping():
            yield secret.root[name].problem("holds secrets")


def _contexts(workload: Workload) -> list[Field]:
    return [container.field["securityContext"] for container in workload.all_containers]


def _inherited(context: Field, pod: Field, name: str) -> Field:
    """A field of a container's security context, else that of its pod."""
    return context[name] if context[name].is_set or not pod[name].is_set else pod[name]


def _everywhere(name: str, check: Check[Workload], mend: str) -> Rule[Workload]:
    """An error in what we wrote, a warning elsewhere."""
    return Rule(name, workloads, check, mend, ERROR, WARNING, WARNING)


RULES: Final[tuple[Rule[Workload] | Rule[KubeObject], ...]] = (
    Rule("privileged", workloads, privileged, "Remove privileged: true", ERROR, ERROR, ERROR),
    _everywhere(
        "privilege-escalation", privilege_escalation, "Set allowPrivilegeEscalation: false"
    ),
    _everywhere(
        "writable-root",
        writable_root,
        "Set readOnlyRootFilesystem: true, and mount emptyDirs to write to",
    ),
    _everywhere("capabilities", capabilities, "Set capabilities.drop: [ALL], and add none"),
    _everywhere("root-user", root_user, "Set runAsNonRoot: true, and no user 0"),
    _everywhere("seccomp", seccomp, "Set seccompProfile.type: RuntimeDefault"),
    _everywhere("host-namespaces", host_namespaces, "Remove hostNetwork, hostPID and hostIPC"),
    _everywhere("host-path", host_path, "Use a claim or an emptyDir"),
    _everywhere("volume-type", volume_type, "Use a claim"),
    _everywhere("host-port", host_port, "Remove hostPort, and use a Service"),
    _everywhere("proc-mount", proc_mount, "Remove procMount"),
    _everywhere("sysctls", sysctls, "Set the sysctl on the nodes, if it is needed"),
    _everywhere("api-token", api_token, "Set automountServiceAccountToken: false"),
    Rule("default-account", workloads, default_account, "Name a service account of its own"),
    Rule(
        "plain-secret",
        workloads,
        plain_secret,
        "Refer to a Secret by secretKeyRef, or mount it",
        ERROR,
        ERROR,
        ERROR,
    ),
    Rule(
        "secret-variable",
        workloads,
        secret_variable,
        "Mount the Secret as a file",
        None,
        WARNING,
        WARNING,
    ),
    Rule(
        "secret-object",
        kind("Secret"),
        secret_object,
        "Leave it out, and refer to a Secret that is in the cluster",
        ERROR,
        WARNING,
        WARNING,
    ),
)
