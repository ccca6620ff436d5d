"""`push`: copies a bundle to the claim of its manifests, in a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..core.bundle import Bundle
from ..core.errors import CheckFailedError
from ..core.progress import Progress, Silent
from ..core.result import Result
from ..k8s.deploy.kubectl import Kubectl
from ..k8s.deploy.tree import Tree
from ..k8s.names import CLAIM
from ..k8s.options import ClusterOptions
from ..k8s.weights import pod
from ..k8s.weights.transfer import Place, copy


@dataclass(frozen=True, slots=True)
class PushResult(Result):
    """A claim that holds the bundle.

    Attributes:
        claim: The claim's name.
        namespace: Its namespace.
        context: The context of kubectl's configuration; None inside a cluster.
        digest: The bundle's folder on the claim.
        sent_bytes: What was sent of it; 0 where it was there already.
        deleted: Digests of older bundles that were deleted.
    """

    SCHEMA: ClassVar[int] = 1

    claim: str
    namespace: str
    context: str | None
    digest: str
    sent_bytes: int
    deleted: tuple[str, ...] = ()


def push(
    bundle: Path,
    *,
    context: str | None = None,
    namespace: str | None = None,
    image: str | None = None,
    keep: int | None = None,
    timeout: float = 1800,
    progress: Progress | None = None,
) -> PushResult:
    """Copy a bundle to the claim that its manifests mount. What arrived already is not sent again.

    A pod without a GPU takes it over, for as long as that takes. The claim is made first, as the
    manifests say, where there is none.

    Args:
        bundle: The bundle's directory.
        context: A context of kubectl's configuration; by default the current one.
        namespace: By default that of the manifests, else that of the context.
        image: The pod's image, which needs Python 3.8; by default that of the servers.
        keep: Other bundles that stay on the claim, those used last; by default as the build said.
        timeout: Seconds that the pod may take to run.
        progress: Receives what is being done.

    Raises `BadInputError` where the bundle, kubectl, the cluster or the volume cannot be used;
    `CheckFailedError` for a bundle that is incomplete or damaged, and for manifests of another one
    or without a claim.
    """
    progress = progress or Silent()
    opened = Bundle.open(bundle)
    opened.require_complete()
    kubectl = Kubectl.find(context, namespace)
    tree = Tree.read(kubectl, opened.k8s)
    if namespace is None and tree.namespace:
        kubectl = Kubectl.find(context, tree.namespace)
    kind = _kind(opened, tree)
    claim = pod.ensure_claim(kubectl, tree)
    bound = claim.get("status", {}).get("phase") == "Bound"
    item = pod.pod(tree, tree.digest, image, bound)
    if keep is None:
        options = opened.record.asked.get("cluster") or {}
        keep = int(options.get("keep", ClusterOptions().keep)) - 1
    with pod.running(kubectl, item, progress.step("pod"), timeout) as connect:
        arrival = copy(opened, Place(CLAIM, tree.digest, kind, keep), connect, progress)
    return PushResult(
        claim["metadata"]["name"],
        kubectl.namespace,
        kubectl.context,
        tree.digest,
        arrival.sent_bytes,
        arrival.deleted,
    )


def _kind(bundle: Bundle, tree: Tree) -> str:
    """What the digest in the manifests is of. Raises `CheckFailedError` where it is not this
    bundle's."""
    for kind, digest in (("files", bundle.files_digest), ("inputs", bundle.inputs_digest)):
        if tree.digest == digest:
            return kind
    raise CheckFailedError(
        f"{tree.path}: these manifests name another bundle ({tree.digest or 'without a digest'}); "
        "run the same nemo-deploy build again"
    )
