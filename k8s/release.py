"""One bundle that is to be rolled out, and how."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from ..core.result import MADE_BY
from ..model.spec import Deployment
from .options import ClusterOptions

LOCAL_REGISTRY: Final = "localhost"
"""Where podman puts what it builds: a bare name would be looked for on Docker Hub, where anybody
may own it."""


def own_image(registry: str | None) -> str:
    """The image of this version of nemo-deploy, in a registry or on this machine."""
    return f"{registry or LOCAL_REGISTRY}/{MADE_BY.replace(' ', ':')}"


@dataclass(frozen=True, slots=True)
class Release:
    """What the manifests are made of.

    Attributes:
        deployment: What is served.
        digest: 64 hex digits that name the bundle. With the way `job` they name what it is made
            from, otherwise its files (`runtime/check_bundle.py` says how).
        build: The options of `nemo-deploy build` that make the bundle again, for the Job.
        source_bytes: What the Job downloads and keeps beside the bundle while it builds.
        options: What the user says about the cluster. `options.weights` is decided.
    """

    deployment: Deployment
    digest: str
    build: tuple[str, ...] = ()
    source_bytes: int = 0
    options: ClusterOptions = field(default_factory=lambda: ClusterOptions(weights="job"))

    @property
    def name(self) -> str:
        return self.deployment.name

    @property
    def way(self) -> str:
        """One of `options.WAYS`."""
        assert self.options.weights is not None
        return self.options.weights

    @property
    def kind(self) -> str:
        """What the digest is of: `inputs` or `files`."""
        return "inputs" if self.way == "job" else "files"

    @property
    def own_image(self) -> str:
        """nemo-deploy's own image: it fills claims, serves without a GPU, and sends load."""
        return own_image(self.options.registry)

    @property
    def bundle_image(self) -> str:
        """The image that holds the bundle, with the way `image`."""
        return f"{self.options.registry or LOCAL_REGISTRY}/{self.name}:{self.digest}"

    def for_development(self) -> Release:
        """The same bundle served by the reference executor, on any node."""
        served = replace(
            self.deployment,
            name=f"{self.name}-dev",
            image=self.own_image,
            executor="reference",
            env={},
        )
        plain = replace(self.options, replicas=1, surge=False, autoscale=None, dra=False)
        return replace(self, deployment=served, options=plain)
