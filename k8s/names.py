"""Names that several objects of a tree share: labels, annotations, containers and paths."""

from __future__ import annotations

import hashlib
from typing import Final

APP: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
"""The label that selects the pods of one variant and no others."""

SERVER: Final = "tritonserver"
"""The value of `APP` on pods that serve."""

FILLER: Final = "nemo-deploy-fill"
"""The value of `APP` on the pods of the Job that fills the claim."""

LOADER: Final = "nemo-deploy-loadtest"
"""The value of `APP` on the pods that send the requests of a load test."""

BUNDLE_DIGEST: Final = "nemo-deploy/bundle"
"""The annotation of pod templates that names the bundle: a change of it is a rollout."""

BUNDLE_BYTES: Final = "nemo-deploy/bundle-bytes"
"""The annotation from which `check` computes how long a start may take."""

TRITON: Final = "triton"
OPENAI: Final = "openai"
CHECK: Final = "check-bundle"
FILL: Final = "fill"
"""The containers: the server, OpenAI's endpoint beside it, the init container that holds a pod back
until its bundle is there, and that of the Job."""

BUNDLE: Final = "/bundle"
"""Where the serving containers find the bundle, read-only."""

CLAIM: Final = "/claim"
"""Where the claim is mounted in containers that see all of its bundles."""

GPU: Final = "nvidia.com/gpu"


_LONGEST_START: Final = 47
"""Characters before the purpose and the digits in a name of at most 63."""


def name_for_bundle(instance: str, purpose: str, digest: str) -> str:
    """The name of an object that serves one bundle for a while, such as its Job: at most 63
    characters, also of a long instance name, and another one for each bundle."""
    if len(instance) > _LONGEST_START:
        instance = f"{instance[:36]}-{hashlib.sha256(instance.encode()).hexdigest()[:10]}"
    return f"{instance}-{purpose}-{digest[:10]}"


def selector(instance: str, app: str = SERVER) -> dict[str, str]:
    """Labels that select the pods of one instance."""
    return {APP: app, INSTANCE: instance}


def labels(instance: str, app: str = SERVER) -> dict[str, str]:
    """Labels of every object."""
    return {**selector(instance, app), "app.kubernetes.io/managed-by": "nemo-deploy"}
