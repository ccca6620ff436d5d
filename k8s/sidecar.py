"""The OpenAI endpoint beside Triton in the serving pod, from the same image and bundle."""

from __future__ import annotations

from typing import Any, Final

from ..model.spec import Deployment
from ..runtime import contract
from .sizing import EXIT_TIMEOUT_S, GIB, PRE_STOP_S, Sizes, quantity

NAME: Final = "openai"

CPU_REQUEST: Final = "1"
CPU_LIMIT: Final = "2"
"""One process with one event loop, and gRPC's threads."""


def openai_container(
    deployment: Deployment, sizes: Sizes, bundle: str, security: dict[str, Any]
) -> dict[str, Any]:
    """The container. It is ready while Triton is, and restarted only for faults of its own."""
    repository = f"{bundle}/model_repository/{deployment.model_name}/1"
    environment = {
        contract.PYTHONPATH.name: repository,
        contract.NO_BYTECODE.name: "1",
        # NVIDIA's images ask for all GPUs, which this container has no use for.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    share = {"memory": quantity(GIB), "ephemeral-storage": quantity(GIB)}
    return {
        "name": NAME,
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-P", "-m", f"{contract.PACKAGE}.openai"],
        "args": [
            f"--model={deployment.model_name}",
            f"--grpc=127.0.0.1:{contract.GRPC.number}",
            "--host=0.0.0.0",
            f"--port={contract.OPENAI.number}",
            "--without-keys",
            f"--grace={EXIT_TIMEOUT_S}",
        ],
        "env": [{"name": k, "value": v} for k, v in environment.items()],
        "ports": [{"name": contract.OPENAI.name, "containerPort": contract.OPENAI.number}],
        "startupProbe": _probe("/health", 10, sizes.startup_s // 10),
        "readinessProbe": _probe("/health", 5, 2),
        "livenessProbe": _probe("/health/live", 10, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "requests": {"cpu": CPU_REQUEST, **share},
            "limits": {"cpu": CPU_LIMIT, **share},
        },
        "securityContext": security,
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - in the container
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": contract.OPENAI.name},
        "periodSeconds": period_s,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
