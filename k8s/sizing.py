"""How much of a node a bundle needs, and how long its start may take: from bytes and GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model.spec import Deployment

GIB: Final = 2**30

READ_BYTES_PER_S: Final = 100_000_000
"""Slowest storage that a start is budgeted for: a network disk that reads 100 MB/s."""

WARM_UP_S: Final = 30 * 60
"""Kernel tuning, just-in-time compilation and CUDA graph capture, none of them cached yet."""

PRE_STOP_S: Final = 15
"""Wait before SIGTERM: Triton closes its ports at once, endpoints follow some seconds later."""

CONNECTION_AGE_S: Final = 10
"""gRPC channels are asked to reconnect at this age. It must be shorter than `PRE_STOP_S`, with
gRPC's jitter of 10 %, or a channel stays with the pod that drains and its new streams are refused.
There is no grace period: that one cuts every longer stream, at any time."""

EXIT_TIMEOUT_S: Final = 60
"""How long Triton waits for generations in flight."""

GRACE_MARGIN_S: Final = 15
"""Unloading the model after the last generation."""

RESPONSE_POOL: Final = 4096
"""Responses (tokens) that may wait for one slow gRPC reader; unbounded unless it is said."""


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
