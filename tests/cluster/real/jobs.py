"""The client of `client.py` in a Job."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai

from nemotron_deploy.tests.cluster.kubectl import wait_for
from nemotron_deploy.tests.cluster.real.node import Namespace

CLIENT = Path(__file__).with_name("client.py")
PACKAGES = Path(openai.__file__).parents[1]
"""The packages of this environment. The Job sees them as a volume."""

NAME = "client"
CLIENT_S = 240


def answers(namespace: Namespace, image: str, host: str, prompts: list[str]) -> Any:
    """What `client.py` prints in a Job in that namespace, for the servers of `host`."""
    volume = f"{namespace.name}-packages"
    claim = {
        "accessModes": ["ReadOnlyMany"],
        "storageClassName": "packages",
        "volumeName": volume,
        "resources": {"requests": {"storage": "1Gi"}},
    }
    script = {"client.py": CLIENT.read_text(encoding="utf-8")}
    namespace.node.kubectl.apply(namespace.volume(volume, PACKAGES, "packages"))
    metadata = {"name": NAME}
    namespace.apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": script},
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": metadata,
            "spec": {"backoffLimit": 0, "template": {"spec": _pod(image, host, prompts)}},
        },
    )
    ending = wait_for("the end of the client", lambda: _ended(namespace), CLIENT_S)
    printed = namespace("logs", f"job/{NAME}")
    assert ending == {"succeeded"}, printed
    return json.loads(printed.splitlines()[-1])


def _ended(namespace: Namespace) -> set[str]:
    [job] = namespace.items("job", NAME)
    return {key for key in ("succeeded", "failed") if job["status"].get(key)}


def _pod(image: str, host: str, prompts: list[str]) -> dict[str, Any]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    mounts = [
        {"name": "script", "mountPath": "/opt/client"},
        {"name": "packages", "mountPath": "/opt/packages", "readOnly": True},
    ]
    return {
        "restartPolicy": "Never",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": NAME,
                "image": image,
                "imagePullPolicy": "Never",
                "command": ["python3", "/opt/client/client.py"],
                "args": [f"{host}:8001", f"http://{host}:9000/v1", json.dumps(prompts)],
                "env": [{"name": "PYTHONPATH", "value": "/opt/packages"}],
                "resources": {"requests": {"cpu": "100m"}},
                "securityContext": security,
                "volumeMounts": mounts,
            }
        ],
        "volumes": [
            {"name": "script", "configMap": {"name": NAME}},
            {"name": "packages", "persistentVolumeClaim": {"claimName": NAME}},
        ],
    }
