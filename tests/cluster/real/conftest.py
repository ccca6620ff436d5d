"""A node that runs containers, for tests of what is really served.

The environment says where it is: `KUBECONFIG` an administrator's access, `CONTAINERD_ADDRESS` the
socket of its containerd, `NEMO_DEPLOY_IMAGE` the archive that `make cluster-image` wrote. The tests
run on the node itself, as root. Where one of these is missing, they skip and say which.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nemotron_deploy.tests.cluster.kubectl import Kubectl
from nemotron_deploy.tests.cluster.real.bundles import Bundles
from nemotron_deploy.tests.cluster.real.node import Namespace, Node

NEEDED = {
    "KUBECONFIG": "no cluster",
    "CONTAINERD_ADDRESS": "no containerd, so no real node",
    "NEMO_DEPLOY_IMAGE": "no image of nemo-deploy (make cluster-image)",
}


def missing() -> str | None:
    """Why there is no real node, or None."""
    for name, reason in NEEDED.items():
        if not os.environ.get(name):
            return f"{reason}: {name} is not set"
    if not Path(os.environ["NEMO_DEPLOY_IMAGE"]).is_file():
        return f"{NEEDED['NEMO_DEPLOY_IMAGE']}: {os.environ['NEMO_DEPLOY_IMAGE']} is no file"
    tools = [tool for tool in ("kubectl", "ctr") if shutil.which(tool) is None]
    if tools or os.geteuid() != 0:
        return f"needs root, kubectl and ctr; missing: {', '.join(tools) or 'root'}"
    return None


@pytest.fixture(scope="session")
def node() -> Node:
    """The node, with the image in its containerd, GPUs declared, and a default storage class."""
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    kubectl = Kubectl(Path("kubectl"), Path(os.environ["KUBECONFIG"]))
    node = Node(kubectl)
    node.prepare(Path(os.environ["NEMO_DEPLOY_IMAGE"]))
    return node


@pytest.fixture(scope="session")
def bundles(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    """Builds bundles of `tiny` that all have the same name."""
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def new_namespace(
    node: Node, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], Namespace]]:
    """Makes namespaces that enforce the restricted level, each with a volume for one claim."""
    made: list[Namespace] = []

    def make() -> Namespace:
        made.append(Namespace(node, tmp_path_factory.mktemp("volume")))
        return made[-1]

    yield make
    for namespace in made:
        namespace.delete()
