"""Packages that only an extra of this distribution installs, and the message for a missing one."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from .errors import BadInputError

DISTRIBUTION: Final = "nemotron-deploy"

EXTRA_OF: Final = {
    "torch": "quantize",
    "transformers": "quantize",
    "safetensors": "quantize",
    "accelerate": "quantize",
    "huggingface_hub": "quantize",
    "jinja2": "quantize",
    "requests": "quantize",
    "modelopt": "quantize",
    "pytriton": "local",
    "llguidance": "local",
    "starlette": "local",
    "uvicorn": "local",
    "opentelemetry.sdk": "tracing",
    "opentelemetry.exporter.otlp.proto.http": "tracing",
    "lm_eval": "evaluate",
    "pyarrow": "evaluate",
    "triton": "kernels",
    "tensorrt_llm": "engine",
}
"""The extra that installs each module. Tests compare it with pyproject.toml."""


class MissingPackageError(BadInputError):
    """A package is not installed. The message names the extra that installs it."""

    def __init__(self, module: str, purpose: str = "this command", instead: str = "") -> None:
        extra = EXTRA_OF[module]
        super().__init__(
            f"{purpose} needs the Python package {module}, which is not installed. Install it with "
            f"pip install '{DISTRIBUTION}[{extra}]'{instead}"
        )


def require(*modules: str, purpose: str, instead: str = "") -> None:
    """Raise `MissingPackageError` for the first of `modules` that is not installed.

    `purpose` is the subject of the message; `instead` is appended and offers an alternative.
    Nothing is imported.
    """
    for module in modules:
        if not _is_installed(module):
            raise MissingPackageError(module, purpose, instead)


def missing_package(error: ImportError) -> MissingPackageError | None:
    """The message for an import that failed, or None where no extra installs the module."""
    module = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or module not in EXTRA_OF or find_spec(module):
        return None
    return MissingPackageError(module)


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package above it
        return False
