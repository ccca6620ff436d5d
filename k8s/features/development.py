"""The reference executor on any node: what the variant `dev` has otherwise than production."""

from __future__ import annotations

from ..manifests import Manifests
from ..sizing import RESPONSE_POOL


def development(manifests: Manifests) -> None:
    """Triton of the PyPI wheel, 2.51, ends at this flag, which later releases have."""
    manifests.triton["args"].remove(f"--grpc-max-response-pool-size={RESPONSE_POOL}")
