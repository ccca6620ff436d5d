"""KEDA scales the served model by its own queue, as the manifests say, and no request fails."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nemotron_deploy.tests.cluster.real.bundles import DEVELOPMENT, NAME, Bundles
from nemotron_deploy.tests.cluster.real.load import Load
from nemotron_deploy.tests.cluster.real.node import Namespace, Node
from nemotron_deploy.tests.cluster.real.release import Release

pytestmark = [pytest.mark.cluster, pytest.mark.long]

STABLE_S = 10
"""How long the load must be lower before a pod is removed; in the manifests, a start's time."""


@pytest.fixture(scope="module")
def keda(node: Node) -> None:
    found = node.kubectl.run("get", "deployments,scaledobjects.keda.sh", "--all-namespaces")
    if found.returncode != 0 or "PROMETHEUS_RULES" not in os.environ:
        pytest.skip("no KEDA and Prometheus in this cluster")


@pytest.mark.usefixtures("keda")
def test_pods_follow_the_queue(
    new_namespace: Callable[[], Namespace], bundles: Bundles, tmp_path: Path
) -> None:
    bundle = bundles.build("--weights=claim", "--concurrency=1", "--autoscale=1:2")
    release = Release(new_namespace(), tmp_path)
    release.copy_to_claim(bundle)
    release.apply(bundle)
    release.ready()
    scaled = yaml.safe_load((bundle / "k8s" / "scaledobject.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(scaled["spec"]).replace(NAME, DEVELOPMENT)
    spec = yaml.safe_load(text)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    down["stabilizationWindowSeconds"] = STABLE_S
    release.namespace.apply({**scaled, "metadata": {"name": DEVELOPMENT}, "spec": spec})
    with Load(release.host, clients=12) as load:
        release.namespace.wait(f"deployment/{DEVELOPMENT}", "jsonpath={.status.readyReplicas}=2")
    with Load(release.host, clients=3) as calm:
        release.namespace.wait(f"deployment/{DEVELOPMENT}", "jsonpath={.spec.replicas}=1")
        release.ready()
    load.require_whole()
    calm.require_whole()
