"""What a tree consists of: the variants of a bundle's manifests, each composed of features."""

from __future__ import annotations

from typing import Final

from .features.autoscaling import autoscaling
from .features.development import development
from .features.dra import resource_claims
from .features.gpus import gpus
from .features.platform import platform
from .features.rollout import rollout
from .features.route import route
from .features.weights import WAYS
from .manifests import Feature, Manifests
from .objects.deployment import deployment
from .objects.disruption_budget import disruption_budget
from .objects.network_policy import network_policy
from .objects.service import service
from .objects.service_account import service_account
from .release import Release
from .sizing import development_sizes, sizes

OBJECTS: Final[tuple[Feature, ...]] = (
    service_account,
    service,
    deployment,
    disruption_budget,
    network_policy,
)
"""The objects of every variant."""

PRODUCTION: Final[tuple[Feature, ...]] = (gpus, resource_claims, rollout, autoscaling, route)
"""What production adds."""

DEVELOPMENT: Final[tuple[Feature, ...]] = (development, rollout)
"""What the variant `dev` adds."""


def production(release: Release) -> Manifests:
    """The objects at the top of the tree."""
    needs = sizes(release.deployment, release.options.keep, release.source_bytes)
    return _composed(Manifests(release, needs), PRODUCTION)


def for_development(release: Release) -> Manifests:
    """The objects of the overlay `dev`."""
    served = release.for_development()
    needs = development_sizes(served.deployment, served.options.keep, served.source_bytes)
    return _composed(Manifests(served, needs), DEVELOPMENT)


def _composed(manifests: Manifests, features: tuple[Feature, ...]) -> Manifests:
    # The platform comes last: it changes what all others added.
    for feature in (*OBJECTS, *features, WAYS[manifests.release.way], platform):
        feature(manifests)
    return manifests
