"""The serving pod: Triton on one bundle, and beside it the OpenAI endpoint.

Under the restricted Pod Security level.
"""

from __future__ import annotations

from typing import Any, Final

from ...model.spec import Deployment
from ...runtime import contract
from ..names import BUNDLE, TRITON
from ..sizing import (
    CONNECTION_AGE_S,
    DEAD_GRACE_S,
    EXIT_TIMEOUT_S,
    PRE_STOP_S,
    RESPONSE_POOL,
    Sizes,
    quantity,
)  # fmt: skip
from .openai import keys_volume, openai_container

USER: Final = 1000
"""`triton-server` in NVIDIA's images."""

POD_SECURITY: Final[dict[str, Any]] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}

CONTAINER_SECURITY: Final[dict[str, Any]] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}

_CACHE: Final = "/cache"
"""Where the cache volume is mounted."""


def pod_spec(deployment: Deployment, sizes: Sizes) -> dict[str, Any]:
    """The pod template's `spec`, without the bundle's volume and without GPUs."""
    return {
        "serviceAccountName": deployment.name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": sizes.grace_s,
        "securityContext": POD_SECURITY,
        "containers": [
            _triton(deployment, sizes),
            openai_container(deployment, sizes, CONTAINER_SECURITY),
        ],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": quantity(sizes.shm)}},
            {"name": "cache", "emptyDir": {"sizeLimit": quantity(sizes.cache)}},
            {"name": "tmp", "emptyDir": {"sizeLimit": quantity(sizes.tmp)}},
            keys_volume(deployment),
        ],
    }


def _triton(deployment: Deployment, sizes: Sizes) -> dict[str, Any]:
    return {
        "name": TRITON,
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["tritonserver"],
        "args": triton_arguments(),
        "env": [{"name": k, "value": v} for k, v in environment(deployment).items()],
        "ports": [{"name": p.name, "containerPort": p.number} for p in contract.TRITON_PORTS],
        **_probes(sizes.startup_s),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": _resources(sizes),
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a path in the container
            {"name": "cache", "mountPath": _CACHE},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
        ],
    }


def triton_arguments() -> list[str]:
    """Flags of `tritonserver`. Models are not loaded, unloaded or completed at run time."""
    return [
        f"--model-repository={BUNDLE}/model_repository",
        "--model-control-mode=none",
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
        f"--grpc-max-connection-age={CONNECTION_AGE_S * 1000}",
        f"--grpc-max-response-pool-size={RESPONSE_POOL}",
        *contract.METRICS_FLAGS,
    ]


def environment(deployment: Deployment) -> dict[str, str]:
    """Environment of the serving container; `deployment.env` takes precedence."""
    return {
        contract.EXECUTOR.name: deployment.executor,
        **contract.OFFLINE,
        contract.HOME.name: f"{_CACHE}/home",
        contract.XDG_CACHE_HOME.name: f"{_CACHE}/xdg",
        **contract.engine_caches(_CACHE, deployment.executor),
        contract.CACHE.name: f"{_CACHE}/nemo-deploy",
        contract.HEALTH_ADDRESS.name: f"0.0.0.0:{contract.HEALTH.number}",
        contract.TRITON_ADDRESS.name: f"127.0.0.1:{contract.HTTP.number}",
        **deployment.env,
    }


def _probes(startup_s: int) -> dict[str, Any]:
    """Kubernetes starts the other two probes only after the startup probe has passed.

    Triton itself would report a model as ready that makes no progress, so the model's guard is
    asked. It decides only after a while, so that one answer is enough.
    """

    def probe(state: str, period_s: int, failures: int, timeout_s: int) -> dict[str, Any]:
        return {
            "httpGet": {"path": f"/{state}", "port": contract.HEALTH.name},
            "periodSeconds": period_s,
            "failureThreshold": failures,
            "timeoutSeconds": timeout_s,
        }

    return {
        "startupProbe": probe("ready", 10, startup_s // 10, 5),
        "readinessProbe": probe("ready", 3, 1, 5),
        "livenessProbe": probe("live", 10, 3, 10) | {"terminationGracePeriodSeconds": DEAD_GRACE_S},
    }


def _resources(sizes: Sizes) -> dict[str, Any]:
    disk = {"ephemeral-storage": quantity(sizes.ephemeral)}
    return {
        "requests": {"cpu": sizes.cpu_request, "memory": quantity(sizes.memory_request), **disk},
        "limits": {"cpu": sizes.cpu_limit, "memory": quantity(sizes.memory), **disk},
    }
