"""What an earlier bundle's manifests had and the present ones no longer have, and which still acts:
`kubectl apply` deletes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..names import labels
from .kubectl import Kubectl
from .tree import Tree

_ACTING: Final = {
    "horizontalpodautoscalers.autoscaling": "it changes the number of replicas",
    "scaledobjects.keda.sh": "it changes the number of replicas",
    "httproutes.gateway.networking.k8s.io": "it lets clients in through a gateway",
}
"""Optional objects of a tree that do something by themselves, and what they do."""


def leftovers(kubectl: Kubectl, tree: Tree) -> Iterator[str]:
    """One warning for each such object of the deployment in `tree`, with the command to delete
    it."""
    known = kubectl.call("api-resources", "--namespaced", "--output=name", good=(0, 1)).out.split()
    resources = [name for name in _ACTING if name in known]
    if not resources:
        return
    own = ",".join(f"{key}={value}" for key, value in labels(tree.name).items())
    answer = kubectl.call("get", ",".join(resources), f"--selector={own}", "--output=name",
                          good=(0, 1))  # fmt: skip
    wanted = {(item["kind"].lower(), item["metadata"]["name"]) for item in tree.objects}
    for line in answer.out.split():
        resource, name = line.split("/")
        kind, _, group = resource.partition(".")
        if (kind, name) not in wanted:
            effect = next(why for key, why in _ACTING.items() if key == f"{kind}s.{group}")
            yield (
                f"{line} is left of an earlier bundle, whose manifests had it, and {effect}; to "
                f"delete it: {kubectl.typed('delete', line)}"
            )
