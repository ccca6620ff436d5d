"""The OpenAI endpoint of a bundle as a process beside a local tritonserver."""

from __future__ import annotations

import math
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..core.errors import BadInputError
from ..core.extras import require
from ..runtime import contract
from .processes import Child
from .repository import VERSION

NAME: Final = "the OpenAI endpoint"

EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - only with API keys
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An endpoint for the served model `model`. A port that is None is chosen.

    With `api_keys`, a file with one key a line, other machines reach it; without, only this one.
    With `traces`, it sends OpenTelemetry spans, as that project's environment variables say.
    """

    model: str
    port: int | None = None
    api_keys: Path | None = None
    traces: bool = False

    def require_runnable(self, repository: Path) -> None:
        """Raise `BadInputError` where a package is missing, or the bundle has no endpoint."""
        require("starlette", "uvicorn", purpose=NAME)
        if self.traces:
            packages = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
            require(*packages, purpose="tracing")
        if not (_code(self, repository) / contract.PACKAGE / "openai").is_dir():
            raise BadInputError(
                f"{repository}: this bundle was built before there was an OpenAI endpoint; build "
                "it again, or serve it without --openai-port"
            )


def endpoint_process(
    endpoint: Endpoint, repository: Path, grpc: str, port: int, grace: float
) -> Child:
    """The endpoint of `repository` in front of the server at `grpc`."""
    keys = endpoint.api_keys
    command = (
        sys.executable, "-P", "-m", f"{contract.PACKAGE}.openai",
        "--model", endpoint.model,
        "--grpc", grpc,
        "--host", LOOPBACK if keys is None else EVERYWHERE,
        "--port", str(port),
        "--grace", str(math.ceil(grace)),
        *(() if keys is None else ("--api-keys", str(keys.absolute()))),
        *(("--traces",) if endpoint.traces else ()),
    )  # fmt: skip
    environment = contract.child_environment()
    if endpoint.traces:
        names = (variable.name for variable in contract.TRACING)
        environment |= {name: os.environ[name] for name in names if name in os.environ}
    environment[contract.PYTHONPATH.name] = str(_code(endpoint, repository))
    return Child(NAME, command, environment)


def _code(endpoint: Endpoint, repository: Path) -> Path:
    """The folder that holds the bundle's runtime package."""
    return repository / endpoint.model / VERSION
