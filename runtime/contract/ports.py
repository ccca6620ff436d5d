"""The ports of the server, and how long it may take to end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the server, by the name that Services and probes use."""

    name: str
    number: int
    meaning: str


HTTP: Final = Port("http", 8000, "Inference and health over HTTP.")
GRPC: Final = Port("grpc", 8001, "Inference and health over gRPC.")
METRICS_PORT: Final = Port("metrics", 8002, "Prometheus metrics at /metrics.")
HEALTH: Final = Port(
    "health", 8003, "Whether the model is ready and live, at /ready and /live: it makes progress."
)
TRITON_PORTS: Final = (HTTP, GRPC, METRICS_PORT, HEALTH)
OPENAI: Final = Port("openai", 9000, "OpenAI's API over HTTP, and its health at /health.")
PORTS: Final = (*TRITON_PORTS, OPENAI)


GRACE_SECONDS: Final = 300
"""How long live requests may go on when a server is asked to end: reasoning takes minutes."""
