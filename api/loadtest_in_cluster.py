"""The load test of a bundle that is deployed, sent from pods beside its servers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from ..core.bundle import Bundle
from ..core.errors import BadInputError, CheckFailedError, UsageError
from ..k8s.deploy.kubectl import Kubectl
from ..k8s.deploy.reader import read
from ..k8s.deploy.snapshot import Object, annotations_of
from ..k8s.deploy.stages import rollout
from ..k8s.deploy.tree import Tree
from ..k8s.deploy.watch import Look, Watch
from ..k8s.loadtest.objects import CONTAINER
from ..k8s.loadtest.running import load_pods
from ..k8s.names import BUNDLE_DIGEST
from ..k8s.release import own_image
from ..loadtest.workers import COMMAND
from ..runtime import contract
from .bundle_in_cluster import connect
from .loadtest_target import Servers

READY_S: Final = 1800.0
"""How long the servers, and then the pods of the test, may take by default."""

_ADDRESSES: Final = {
    "auto": ("grpc", contract.GRPC),
    "grpc": ("grpc", contract.GRPC),
    "generate-stream": ("http", contract.HTTP),
    "chat": ("http", contract.OPENAI),
    "completions": ("http", contract.OPENAI),
}
"""Scheme and port of each protocol at the bundle's Service."""

_WORKER: Final = ("python3", *COMMAND[1:])
"""Starts a worker in a pod."""


def _ignore(look: Look) -> None:
    """Show nothing."""


@dataclass(frozen=True, slots=True)
class InCluster:
    """From where in a cluster a load test is sent.

    Attributes:
        pods: How many pods send requests.
        context: A context of kubectl's configuration; None takes the current one.
        namespace: None takes the one that the manifests name, else the context's.
        overlay: A folder of `k8s/overlays` that was deployed instead of `k8s` itself.
        image: The pods' image, of this version of nemo-deploy; None takes the one in the registry
            that the bundle was built for.
        ready_timeout: How long the servers, and then the pods, may take to be ready, in seconds.
        looked: Receives every look at the cluster while something is not ready.
    """

    pods: int = 1
    context: str | None = None
    namespace: str | None = None
    overlay: str | None = None
    image: str | None = None
    ready_timeout: float = READY_S
    looked: Callable[[Look], None] = _ignore

    def __post_init__(self) -> None:
        if self.pods < 1:
            raise UsageError(f"--pods {self.pods}: must be at least 1")


@contextmanager
def senders(bundle: Bundle, protocol: str, options: InCluster) -> Iterator[Servers]:
    """Start pods beside the servers of `bundle`, once these are ready. Nothing of it is left when
    the block ends.

    Raises what `connect` and `load_pods` do, `UsageError` for an unknown protocol, `BadInputError`
    where the bundle is not deployed, and `CheckFailedError` where another one is, or where it does
    not get ready.
    """
    if protocol not in _ADDRESSES:
        raise UsageError(f"--protocol {protocol!r}: must be one of {', '.join(_ADDRESSES)}")
    kubectl, tree = connect(bundle, options.context, options.namespace, options.overlay)
    deployment = _deployed(kubectl, tree, bundle, options.overlay)
    _wait_for_servers(kubectl, tree, bundle, deployment, options)
    registry = (bundle.record.asked.get("cluster") or {}).get("registry")
    with load_pods(
        kubectl,
        deployment,
        image=options.image or own_image(registry),
        pods=options.pods,
        limit_s=options.ready_timeout,
        looked=options.looked,
    ) as pods:
        scheme, port = _ADDRESSES[protocol]
        url = f"{scheme}://{tree.name}.{kubectl.namespace}.svc:{port.number}"
        container = f"--container={CONTAINER}"
        commands = (
            kubectl.command("exec", "--stdin", pod, container, "--", *_WORKER) for pod in pods
        )
        yield Servers(url, tuple(map(tuple, commands)))


def _deployed(kubectl: Kubectl, tree: Tree, bundle: Bundle, overlay: str | None) -> Object:
    """The Deployment of `bundle` in the cluster. Raises where it is not there, or another one."""
    place = {"context": kubectl.context, "namespace": kubectl.namespace, "overlay": overlay}
    words = [f"--{name}={value}" for name, value in place.items() if value]
    deploy = shlex.join(["nemo-deploy", "deploy", str(bundle.path), *words])
    found = kubectl.items("get", "deployment", tree.name, "--ignore-not-found")
    if not found:
        raise BadInputError(
            f"there is no deployment {tree.name} in the namespace {kubectl.namespace}; deploy the "
            f"bundle first ({deploy}), or say where it is with --context, --namespace and --overlay"
        )
    (deployment,) = found
    digest = _digest(deployment)
    if digest not in (bundle.files_digest, bundle.inputs_digest):
        raise CheckFailedError(
            f"deployment {tree.name} in the namespace {kubectl.namespace} serves the bundle "
            f"{digest[:10] or '(unnamed)'}, not {tree.digest[:10]} of {bundle.path}; deploy that "
            f"one ({deploy}), or name the bundle that is served"
        )
    if deployment["spec"].get("replicas", 1) == 0:
        scale = kubectl.typed("scale", f"deployment/{tree.name}", "--replicas=1")
        raise CheckFailedError(f"deployment {tree.name} has 0 replicas; give it some ({scale})")
    return deployment


def _digest(deployment: Object) -> str:
    return annotations_of(deployment["spec"]["template"]).get(BUNDLE_DIGEST, "")


def _wait_for_servers(
    kubectl: Kubectl, tree: Tree, bundle: Bundle, deployment: Object, options: InCluster
) -> None:
    """Watch until every replica is ready. Raises `CheckFailedError` where they do not get there."""
    target = tree.target(kubectl, bundle.path, _digest(deployment))
    watch = Watch(partial(read, kubectl, target), rollout, options.looked)
    watch.run(options.ready_timeout).require_done("the servers are not ready")
