"""Releases for tests of the manifests."""

from __future__ import annotations

from typing import Any

from nemotron_deploy.k8s.options import ClusterOptions
from nemotron_deploy.k8s.release import Release
from nemotron_deploy.model.spec import Deployment

DIGEST = "0123456789abcdef" * 4
BUILD = ("--checkpoint=nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16@abc", "--gpu=h100")


def release(deployment: Deployment, **options: Any) -> Release:
    """A release of the deployment, by a Job unless `options` say otherwise."""
    chosen = ClusterOptions(**{"weights": "job", **options})
    return Release(deployment, DIGEST, BUILD, 63_000_000_000, chosen)
