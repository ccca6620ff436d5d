"""What a user does with a bundle in a namespace: apply it, apply another, go back."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from nemotron_deploy.tests.cluster.real.bundles import DEVELOPMENT
from nemotron_deploy.tests.cluster.real.node import USER, Namespace

TRITON, OPENAI, CHECK = "triton", "openai", "check-bundle"
SERVER, FILLER, LOADER = "tritonserver", "nemo-deploy-fill", "nemo-deploy-loadtest"
DIGEST = "nemo-deploy/bundle"

SURGE = {"maxSurge": 1, "maxUnavailable": 0}

ANY_USER = {"runAsUser": 1_000_730_000, "runAsGroup": 0, "supplementalGroups": [USER]}
"""What OpenShift adds to the security context of a pod that asks for no user: one that has no name
in the image, group 0, and a group that may use the volume."""

Object = dict[str, Any]


class Release:
    """The overlay `dev` in a namespace, and on top of it an overlay of the user's own: with
    `replicas` pods, of which a rollout ends one first, or with one pod and `surge`, whose successor
    starts first."""

    def __init__(
        self, namespace: Namespace, folder: Path, *, replicas: int = 1, surge: bool = False
    ) -> None:
        self.namespace, self.folder = namespace, folder
        self.replicas, self.surge = replicas, surge
        self.host = f"{DEVELOPMENT}.{namespace.name}.svc"

    def apply(self, bundle: Path, *patches: Object) -> None:
        """`kubectl apply -k`, with further patches of the Deployment."""
        tree = bundle / "k8s" / "overlays" / "dev"
        own = Path(tempfile.mkdtemp(dir=self.folder))
        if self.surge:
            patches += (_deployment(strategy={"rollingUpdate": SURGE}),)
        document = {
            "resources": [os.path.relpath(tree, own)],
            "replicas": [{"name": DEVELOPMENT, "count": self.replicas}],
            "patches": [{"patch": json.dumps(patch)} for patch in patches],
        }
        (own / "kustomization.yaml").write_text(json.dumps(document))
        self.namespace("apply", "-k", own)

    def copy_to_claim(self, bundle: Path, name: str | None = None) -> Path:
        """Put the bundle on the claim where the manifests of this or another digest look for it."""
        place = self.namespace.folder / (name or digest(bundle))
        shutil.copytree(bundle, place)
        for path in (place, *place.rglob("*")):
            os.chown(path, USER, USER)
        return place

    def ready(self) -> None:
        """Wait until what was applied last is rolled out."""
        self.namespace.rolled_out(DEVELOPMENT)

    def pods(self) -> list[Object]:
        """The serving pods that are not being deleted."""
        return self.namespace.pods(name=SERVER, instance=DEVELOPMENT)

    def served(self) -> set[str]:
        """The digests of the bundles that Ready pods serve."""
        return {
            pod["metadata"]["annotations"][DIGEST]
            for pod in self.pods()
            if condition(pod, "Ready") == "True"
        }


def memory_limit(size: str) -> Object:
    """A patch of the Deployment: the server's memory."""
    resources = {"requests": {"memory": size}, "limits": {"memory": size}}
    containers = [{"name": TRITON, "resources": resources}]
    return _deployment(template={"spec": {"containers": containers}})


def as_any_user() -> Object:
    """A patch of the Deployment: a user as on OpenShift."""
    return _deployment(template={"spec": {"securityContext": ANY_USER}})


def _deployment(**spec: Object) -> Object:
    metadata = {"name": DEVELOPMENT}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def condition(pod: Object, kind: str) -> str:
    """The status of a pod's condition."""
    rows = pod["status"].get("conditions", [])
    return next((str(row["status"]) for row in rows if row["type"] == kind), "Unknown")


def digest(bundle: Path) -> str:
    """The digest by which the manifests of a bundle name it."""
    text = (bundle / "k8s" / "overlays" / "dev" / "deployment.yaml").read_text(encoding="utf-8")
    return str(yaml.safe_load(text)["spec"]["template"]["metadata"]["annotations"][DIGEST])


def job_name(bundle: Path) -> str:
    """The name of the Job that fills the claim with a bundle."""
    text = (bundle / "k8s" / "overlays" / "dev" / "fill" / "job.yaml").read_text(encoding="utf-8")
    match = re.search(r"^  name: (\S+)$", text, re.MULTILINE)
    assert match is not None
    return match[1]
