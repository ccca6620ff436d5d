"""The service accounts."""

from __future__ import annotations

from ..manifests import Manifests
from .metadata import new

_COMMENT = "A dedicated service account without a token: Triton never calls the Kubernetes API."


def service_account(manifests: Manifests) -> None:
    """The account of the serving pods."""
    account = new(
        "v1", "ServiceAccount", manifests.release.name, automountServiceAccountToken=False
    )
    manifests.add("serviceaccount.yaml", account, _COMMENT)
