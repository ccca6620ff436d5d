"""The Python interface: each command of `nemo-deploy` as a function with a typed result.

    from nemotron_deploy.api import build, loadtest, plan, quantize, serve, verify

    bundle = build("tiny", gpu="h100", quant="int4", context=4096).bundle
    assert verify(bundle).ok
    with serve(bundle) as server:
        print(loadtest(f"grpc://{server.result.grpc}").report.runs[0].latencies["ttft"])

Each result is a frozen dataclass (`core.result.Result`) whose `to_json()` is the document of
`--json`.
What a user can do something about is raised as one of `core.errors`, whose text says what to do.

Each function lives in the module of the same name, one for each command, and is loaded at its first
use, so importing this package is fast. Here these names always mean the functions.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build
    from .check_manifests import check_manifests
    from .deploy import deploy
    from .evaluate import evaluate
    from .loadtest import loadtest
    from .plan import plan
    from .quantize import quantize
    from .serve import serve
    from .verify import verify

__all__ = [
    "build", "check_manifests", "deploy", "evaluate", "loadtest", "plan", "quantize", "serve",
    "verify",
]  # fmt: skip


def _function(name: str) -> property:
    def get(package: ModuleType) -> Any:
        return getattr(import_module(f"{package.__name__}.{name}"), name)

    def leave(package: ModuleType, module: ModuleType) -> None:
        """Importing a submodule sets it as an attribute of its package, which would hide `get`."""

    return property(get, leave)


_Package = type("_Package", (ModuleType,), {name: _function(name) for name in __all__})

sys.modules[__name__].__class__ = _Package
