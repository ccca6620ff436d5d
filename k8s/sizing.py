"""The resources a bundle needs and the time its start may take, from its bytes and GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model.spec import Deployment
from ..runtime import contract

GIB: Final = 2**30

READ_BYTES_PER_S: Final = 100_000_000
"""The slowest storage that a start allows for: a network disk that reads 100 MB/s."""

WARM_UP_S: Final = 30 * 60
"""Time for kernel tuning, just-in-time compilation and CUDA graph capture with empty caches."""

PRE_STOP_S: Final = 15
"""Wait before SIGTERM: Triton closes its ports at once, endpoints are updated seconds later."""

CONNECTION_AGE_S: Final = 10
"""gRPC clients reconnect at this age. With gRPC's jitter of 10 % it must be shorter than
`PRE_STOP_S`; otherwise a client stays connected to a draining pod, which refuses its new streams.
No grace period is set: it would cut every longer stream, at any time."""

EXIT_TIMEOUT_S: Final = contract.GRACE_SECONDS
"""How long Triton waits for running generations."""

DEAD_GRACE_S: Final = 30
"""Time to end for a model that is not live: it has no generation that could end by itself."""

GRACE_MARGIN_S: Final = 15
"""Unloading the model after the last generation."""

RESPONSE_POOL: Final = 4096
"""Responses (tokens) queued for one slow gRPC client; Triton's own default is unlimited."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Requests and limits of the serving pod; bytes are whole GiB."""

    cpu_request: int
    cpu_limit: int
    memory: int
    shm: int
    cache: int
    tmp: int
    claim: int
    startup_s: int

    @property
    def ephemeral(self) -> int:
        """Disk on the node: caches, temporary files and 1 GiB of logs."""
        return self.cache + self.tmp + GIB

    @property
    def progress_deadline_s(self) -> int:
        """A start, after an hour in which the image is pulled and the claim is filled."""
        return self.startup_s + 3600

    @property
    def grace_s(self) -> int:
        return PRE_STOP_S + EXIT_TIMEOUT_S + GRACE_MARGIN_S


def sizes(deployment: Deployment) -> Sizes:
    """The pod's sizes.

    - memory: the bundle once (weights pass through host memory while they load), 16 GiB per GPU
      for its process, and the shared memory, which counts against the same limit;
    - shared memory: 4 GiB per GPU (NVIDIA's documents start Triton with 2 GiB, more for tensor
      parallelism);
    - claim: the bundle twice (a new one is copied in beside the old one) and 1 GiB;
    - start: `WARM_UP_S`, and reading the bundle at `READ_BYTES_PER_S`.
    """
    gpus, bundle = deployment.gpus, whole_gib(deployment.bundle_bytes)
    shm = 4 * GIB * gpus
    return Sizes(
        cpu_request=4 * gpus,
        cpu_limit=16 * gpus,
        memory=bundle + 16 * GIB * gpus + shm,
        shm=shm,
        cache=16 * GIB,
        tmp=4 * GIB,
        claim=2 * bundle + GIB,
        startup_s=startup_seconds(deployment.bundle_bytes),
    )


def startup_seconds(bundle_bytes: int) -> int:
    """The start-up probe's budget in seconds, a multiple of 10 (its period)."""
    seconds = WARM_UP_S + bundle_bytes / READ_BYTES_PER_S
    return -(-int(seconds) // 10) * 10


def whole_gib(count: int) -> int:
    """`count` bytes rounded up to GiB."""
    return -(-count // GIB) * GIB


def quantity(count: int) -> str:
    """Bytes (whole GiB) as Kubernetes writes them."""
    return f"{count // GIB}Gi"
