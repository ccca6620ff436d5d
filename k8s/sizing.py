"""The resources a bundle needs and the time its start may take, from its bytes and GPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..model.spec import Deployment
from ..runtime import contract

MIB: Final = 2**20
GIB: Final = 2**30

READ_BYTES_PER_S: Final = 100_000_000
"""The slowest storage that a start allows for: a network disk that reads 100 MB/s."""

WARM_UP_S: Final = 30 * 60
"""Time for kernel tuning, just-in-time compilation and CUDA graph capture with empty caches."""

PRE_STOP_S: Final = 15
"""Wait before SIGTERM: Triton closes its ports at once, endpoints are updated seconds later."""

CONNECTION_AGE_S: Final = 10
"""Clients reconnect at this age. With gRPC's jitter of 10 % it must be shorter than
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
    """Requests and limits of the pods. Processors as Kubernetes writes them, memory in whole MiB.

    The first five are of the container `triton`, `openai_…` of the endpoint beside it, `fill_…` of
    the Job that fills the claim.
    """

    cpu_request: str
    cpu_limit: str
    memory_request: int
    memory: int
    shm: int
    openai_cpu_request: str
    openai_cpu_limit: str
    openai_memory: int
    fill_cpu_request: str
    fill_cpu_limit: str
    fill_memory_request: int
    fill_memory: int
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


def sizes(deployment: Deployment, bundles: int = 2, source_bytes: int = 0) -> Sizes:
    """The sizes in production.

    - memory: the bundle once (weights pass through host memory while they load), 16 GiB per GPU
      for its process, and the shared memory, which counts against the same limit;
    - shared memory: 4 GiB per GPU (NVIDIA's documents start Triton with 2 GiB, more for tensor
      parallelism);
    - endpoint: one process with one event loop, and gRPC's threads;
    - filling: what a build of Nano in INT4 asks for, 9.7 GB, is half of its bundle
      (docs/golden.md); 2 GiB more for Python's own;
    - claim: the `bundles` that it keeps, the one in work included, the `source_bytes` that a Job
      keeps until it is done, and 1 GiB;
    - start: `WARM_UP_S`, and reading the bundle at `READ_BYTES_PER_S`.
    """
    gpus, bundle = deployment.gpus, whole_gib(deployment.bundle_bytes)
    shm = shared_memory(gpus)
    memory = bundle + 16 * GIB * gpus + shm
    fill = 2 * GIB + whole_gib(deployment.bundle_bytes // 2)
    return Sizes(
        cpu_request=str(4 * gpus),
        cpu_limit=str(16 * gpus),
        memory_request=memory,
        memory=memory,
        shm=shm,
        openai_cpu_request="1",
        openai_cpu_limit="2",
        openai_memory=GIB,
        fill_cpu_request="4",
        fill_cpu_limit="16",
        fill_memory_request=fill,
        fill_memory=fill,
        cache=16 * GIB,
        tmp=4 * GIB,
        claim=bundles * bundle + whole_gib(source_bytes) + GIB,
        startup_s=startup_seconds(deployment.bundle_bytes),
    )


def development_sizes(deployment: Deployment, bundles: int = 2, source_bytes: int = 0) -> Sizes:
    """The sizes with the reference executor: for the embedded model, all containers of the pod
    together within 2 processors and 4 GiB.

    - memory: 2 GiB for Triton, torch and transformers, and the bundle eight times, because the
      executor keeps every weight in 32 bits;
    - filling: as in production.
    """
    bundle = whole_mib(deployment.bundle_bytes)
    memory = 2 * GIB + 512 * MIB + 8 * bundle
    return Sizes(
        cpu_request="250m",
        cpu_limit="1500m",
        memory_request=GIB + 8 * bundle,
        memory=memory,
        shm=shared_memory(0),
        openai_cpu_request="100m",
        openai_cpu_limit="500m",
        openai_memory=512 * MIB,
        fill_cpu_request="250m",
        fill_cpu_limit="2",
        fill_memory_request=GIB,
        fill_memory=2 * GIB + whole_gib(deployment.bundle_bytes // 2),
        cache=GIB,
        tmp=GIB,
        claim=bundles * whole_gib(deployment.bundle_bytes) + whole_gib(source_bytes) + GIB,
        startup_s=startup_seconds(deployment.bundle_bytes),
    )


def shared_memory(gpus: int) -> int:
    """Bytes of shared memory for a server on that many GPUs; 0 is one without."""
    return 4 * GIB * gpus or GIB // 4


def startup_seconds(bundle_bytes: int) -> int:
    """The start-up probe's budget in seconds, a multiple of 10 (its period)."""
    seconds = WARM_UP_S + bundle_bytes / READ_BYTES_PER_S
    return -(-int(seconds) // 10) * 10


def whole_gib(count: int) -> int:
    """`count` bytes rounded up to GiB."""
    return -(-count // GIB) * GIB


def whole_mib(count: int) -> int:
    """`count` bytes rounded up to MiB."""
    return -(-count // MIB) * MIB


def quantity(count: int) -> str:
    """Bytes (whole MiB) as Kubernetes writes them."""
    return f"{count // MIB}Mi" if count % GIB else f"{count // GIB}Gi"
