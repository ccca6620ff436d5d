"""The OpenAI endpoint beside Triton in the serving pod, from the same image and bundle."""

from __future__ import annotations

from typing import Any, Final

from ...model.spec import Deployment
from ...runtime import contract
from ..names import BUNDLE, OPENAI
from ..sizing import CONNECTION_AGE_S, EXIT_TIMEOUT_S, PRE_STOP_S, Sizes, quantity

KEYS_VOLUME: Final = "api-keys"
"""The volume with the API keys, from a Secret that need not exist."""

KEYS_FOLDER: Final = "/etc/nemo-deploy/api-keys"
"""Where the volume is mounted."""

KEYS_PATH: Final = f"{KEYS_FOLDER}/keys"
"""The file of keys, one a line: the entry `keys` of the Secret."""

WITHOUT_KEYS: Final = "--without-keys"
"""Lets everybody use the endpoint as long as there is no file of keys."""


def keys_secret(deployment: Deployment) -> str:
    """The name of the Secret that may hold API keys; it is the same in every overlay."""
    return f"{deployment.name}-api-keys"


def keys_volume(deployment: Deployment) -> dict[str, Any]:
    """The volume of API keys. It is empty while there is no Secret, and kubelet fills, changes and
    empties it as the Secret does."""
    secret = {
        "secretName": keys_secret(deployment),
        "optional": True,
        "defaultMode": 0o440,
    }
    return {"name": KEYS_VOLUME, "secret": secret}


def openai_container(
    deployment: Deployment, sizes: Sizes, security: dict[str, Any]
) -> dict[str, Any]:
    """The container. It is ready while Triton is, and restarted only for faults of its own."""
    repository = f"{BUNDLE}/model_repository/{deployment.model_name}/1"
    environment = {
        contract.PYTHONPATH.name: repository,
        contract.NO_BYTECODE.name: "1",
        # NVIDIA's images ask for all GPUs, which this container has no use for.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    memory = quantity(sizes.openai_memory)
    share = {"memory": memory, "ephemeral-storage": memory}
    return {
        "name": OPENAI,
        "image": deployment.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-P", "-m", f"{contract.PACKAGE}.openai"],
        "args": [
            f"--model={deployment.model_name}",
            f"--grpc=127.0.0.1:{contract.GRPC.number}",
            "--host=0.0.0.0",
            f"--port={contract.OPENAI.number}",
            f"--grace={EXIT_TIMEOUT_S}",
            f"--api-keys={KEYS_PATH}",
            WITHOUT_KEYS,
            f"--connection-age={CONNECTION_AGE_S}",
        ],
        "env": [{"name": k, "value": v} for k, v in environment.items()],
        "ports": [{"name": contract.OPENAI.name, "containerPort": contract.OPENAI.number}],
        "startupProbe": _probe("/health", 10, sizes.startup_s // 10),
        "readinessProbe": _probe("/health", 5, 2),
        "livenessProbe": _probe("/health/live", 10, 6),
        "lifecycle": {"preStop": {"sleep": {"seconds": PRE_STOP_S}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "resources": {
            "requests": {"cpu": sizes.openai_cpu_request, **share},
            "limits": {"cpu": sizes.openai_cpu_limit, **share},
        },
        "securityContext": security,
        "volumeMounts": [
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a path in the container
            # The whole folder: a single file (subPath) would not change when the Secret does.
            {"name": KEYS_VOLUME, "mountPath": KEYS_FOLDER, "readOnly": True},
        ],
    }


def _probe(path: str, period_s: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": contract.OPENAI.name},
        "periodSeconds": period_s,
        "failureThreshold": failures,
        "timeoutSeconds": 5,
    }
