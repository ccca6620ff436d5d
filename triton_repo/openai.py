"""The OpenAI endpoint of a bundle as a process beside a local tritonserver."""

from __future__ import annotations

import math
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
    """

    model: str
    port: int | None = None
    api_keys: Path | None = None

    def require_runnable(self, repository: Path) -> None:
        """Raise `BadInputError` where a package is missing, or the bundle has no endpoint."""
        require("starlette", "uvicorn", purpose=NAME)
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
    )  # fmt: skip
    code = str(_code(endpoint, repository))
    return Child(NAME, command, contract.child_environment() | {contract.PYTHONPATH.name: code})


def _code(endpoint: Endpoint, repository: Path) -> Path:
    """The folder that holds the bundle's runtime package."""
    return repository / endpoint.model / VERSION
