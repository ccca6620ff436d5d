"""What the user says about the cluster: how a bundle gets there, and what the cluster is like."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from ..core.errors import UsageError

WAYS: Final = ("job", "claim", "image")
"""How the weights get to the pods: a Job in the cluster builds the bundle on a claim, `push` copies
it there, or it is part of a container image."""

AUTOSCALERS: Final = ("keda", "hpa")

PLATFORMS: Final = ("generic", "gke", "gke-autopilot", "eks", "aks", "openshift")

_LABEL: Final = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_SUBDOMAIN: Final = rf"{_LABEL}(\.{_LABEL})*"
_HOST: Final = r"[A-Za-z0-9.-]+(:[0-9]{1,5})?"
_FORMS: Final = {
    "namespace": (_LABEL, "lower-case letters, digits and '-', at most 63 characters"),
    "storage_class": (_SUBDOMAIN, "a name of Kubernetes, such as premium-rwo"),
    "runtime_class": (_SUBDOMAIN, "a name of Kubernetes, such as nvidia"),
    "registry": (rf"{_HOST}(/[a-z0-9._-]+)*", "HOST[:PORT][/FOLDER], such as registry.local/ai"),
    "gateway": (rf"({_LABEL}/)?{_SUBDOMAIN}", "[NAMESPACE/]NAME of a Gateway"),
    "hostname": (rf"(\*\.)?{_SUBDOMAIN}", "a host name, such as llm.example.com"),
}  # fmt: skip
"""Options that name something: the form of the name, and how a message describes it."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Options of the manifests; None and False leave a thing to the cluster or to a default.

    Attributes:
        weights: One of `WAYS`; None is decided by what the checkpoint allows.
        platform: One of `PLATFORMS`.
        namespace: The namespace of all objects; None is that of the context.
        storage_class: That of the claim; None is the cluster's default class.
        runtime_class: That of the serving pods, for nodes whose default runtime knows no GPUs.
        registry: Where nemo-deploy's image and images of bundles are.
        ipv6: Whether servers listen on IPv6 addresses.
        replicas: Number of serving pods.
        surge: Whether a rollout starts the new pod before it ends the old one.
        autoscale: `MIN:MAX` serving pods.
        autoscaler: What sets their number, one of `AUTOSCALERS`.
        prometheus: Where KEDA asks for metrics.
        dra: Whether GPUs are claimed by dynamic resource allocation.
        gateway: The Gateway whose HTTPRoute leads to the OpenAI endpoint.
        hostname: The host name of that route.
        token_secret: The Secret whose entry `token` the Job uses on the hub.
        keep: Bundles that the claim keeps, the served one included.

    Raises `UsageError` for a value that is none of these, or that excludes another.
    """

    weights: str | None = None
    platform: str = "generic"
    namespace: str | None = None
    storage_class: str | None = None
    runtime_class: str | None = None
    registry: str | None = None
    ipv6: bool = False
    replicas: int = 1
    surge: bool = False
    autoscale: str | None = None
    autoscaler: str = "keda"
    prometheus: str = "http://prometheus-operated.monitoring.svc:9090"
    dra: bool = False
    gateway: str | None = None
    hostname: str | None = None
    token_secret: str = "hf-token"
    keep: int = 2

    def __post_init__(self) -> None:
        _require_one_of("weights", self.weights, (*WAYS, None))
        _require_one_of("platform", self.platform, PLATFORMS)
        _require_one_of("autoscaler", self.autoscaler, AUTOSCALERS)
        for option, (form, described) in _FORMS.items():
            value = getattr(self, option)
            if value is not None and not re.fullmatch(form, value):
                raise UsageError(f"{_flag(option)} {value!r}: must be {described}")
        if not re.fullmatch(_SUBDOMAIN, self.token_secret):
            raise UsageError(f"--token-secret {self.token_secret!r}: must be a name of Kubernetes")
        if not re.fullmatch(r"https?://[^\s/]+(/\S*)?", self.prometheus):
            raise UsageError(f"--prometheus {self.prometheus!r}: must be an http:// address")
        if self.replicas < 1:
            raise UsageError(f"--replicas {self.replicas}: must be at least 1")
        if self.keep < 2:
            raise UsageError(
                f"--keep {self.keep}: must be at least 2, or a rollout would delete the bundle "
                "that is served"
            )
        if self.autoscale is not None and self.replicas != 1:
            raise UsageError(
                "--autoscale and --replicas exclude each other: the autoscaler sets it"
            )
        if self.hostname is not None and self.gateway is None:
            raise UsageError("--hostname needs --gateway")
        if self.dra and self.platform == "gke-autopilot":
            raise UsageError(
                "--dra cannot be used on gke-autopilot, which has no DRA driver for GPUs"
            )
        _ = self.bounds

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest number of serving pods."""
        if self.autoscale is None:
            return self.replicas, self.replicas
        match = re.fullmatch(r"(\d{1,4}):(\d{1,4})", self.autoscale)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(
                f"--autoscale {self.autoscale!r}: must be MIN:MAX, for example 1:4, and MIN at "
                "least 1, because the pods themselves report the queue"
            )
        return int(match[1]), int(match[2])

    @property
    def several_pods(self) -> bool:
        """Whether two pods may use the claim at the same time."""
        return self.surge or self.bounds[1] > 1


def _require_one_of(option: str, value: str | None, known: tuple[str | None, ...]) -> None:
    if value not in known:
        names = ", ".join(name for name in known if name)
        raise UsageError(f"unknown {_flag(option)} {value!r}; known are {names}")


def _flag(option: str) -> str:
    return f"--{option.replace('_', '-')}"
