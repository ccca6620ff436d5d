"""What a load test is sent to: a server at an address, or those of a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..core.bundle import Bundle
from ..core.errors import UsageError
from ..core.progress import Progress
from ..runtime import contract

if TYPE_CHECKING:
    from .loadtest_in_cluster import InCluster


@dataclass(frozen=True, slots=True)
class Servers:
    """Where servers are: their address, the command lines that start workers beside them (None:
    requests are sent from this machine), and the port of their metrics."""

    url: str
    workers: Sequence[Sequence[str]] | None = None
    metrics_port: int = contract.METRICS_PORT.number


def bundle_of(
    target: str | Path,
    in_cluster: InCluster | None,
    verify: str,
    trust_code: bool,
    progress: Progress,
) -> Bundle | None:
    """The bundle at `target`, trusted where its code is to run here; None for an address.

    Raises `UsageError` for a target that is neither.
    """
    if not Path(target).is_dir():
        if in_cluster is not None:
            raise UsageError(
                f"{target}: --in-cluster needs the directory of the bundle that is deployed"
            )
        if "/" in str(target) and "://" not in str(target):
            raise UsageError(
                f"{target}: is neither a bundle's directory nor grpc://host:port or "
                "http://host:port"
            )
        return None
    if in_cluster is not None:
        bundle = Bundle.open(Path(target))
        bundle.require_complete()
        return bundle
    # Imported here, as what serves: it knows all engines, and takes a fifth of a second that the
    # test of a server can do without.
    from .trust import open_trusted

    return open_trusted(Path(target), verify, trust_code, progress)


@contextmanager
def servers(
    target: str | Path,
    bundle: Bundle | None,
    protocol: str,
    in_cluster: InCluster | None,
    progress: Progress,
) -> Iterator[Servers]:
    """The servers at the address `target`, or those of `bundle`: started here, or reached from pods
    beside them."""
    if bundle is None:
        yield Servers(str(target))
    elif in_cluster is not None:
        # Imported here, because other tests need nothing of Kubernetes.
        from .loadtest_in_cluster import senders

        with senders(bundle, protocol, in_cluster) as reached:
            yield reached
    else:
        from .serve import serving

        progress.step("start tritonserver")
        with serving(bundle) as server:
            yield Servers(server.grpc_url, metrics_port=server.metrics_port)
