"""Pods that help a command of nemo-deploy for a while, beside the serving pods. They run nothing by
themselves: the command starts its programs in them with `kubectl exec`."""

from __future__ import annotations

from typing import Any, Final

from .yaml_text import Object

_SLEEP: Final = (
    "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]); "
    "signal.sigwait([signal.SIGTERM])"
)
"""Waits for SIGTERM, which process 1 of a container has no handler for."""


def helper_pod(server: Object, container: Object, **rest: Any) -> Object:
    """The `spec` of a pod with one container and the fields of `rest`. It goes where the serving
    pods may go, whose `spec` is `server`, and pulls its image as they do."""
    kept = ("tolerations", "imagePullSecrets", "securityContext")
    return {
        **{key: server[key] for key in kept if key in server},
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 5,
        "containers": [container],
        **rest,
    }


def helper_container(name: str, image: str, **rest: Any) -> Object:
    """A container that needs `python3` and waits until it is ended; `rest` are further fields."""
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SLEEP],
        **rest,
    }
