"""What the checkpoint holds in INT4 or INT8: the engine's own file, as TensorRT-LLM must not read
it.

A `quantization_config` with such a format would put every Linear of the model onto its methods,
those that stayed BF16 too. So TensorRT-LLM sees a checkpoint without one (`view.py`), and this says
what the expert tensors are.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

FILE: Final = "format.json"
PACKAGE: Final = "nemo_deploy_experts"
"""The name under which engines hold this folder and the kernels: worker processes import it."""


class SettingsError(ImportError):
    """The engine's `format.json` is missing or says something else than expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Layers whose routed and whose shared experts are quantized, the bits of a weight (4 or 8),
    the group size along the input (0: whole rows), what all scales are BF16 numbers over (0: they
    are FP32), and how many routed experts a token takes."""

    bits: int
    group_size: int
    scale_divisor: int
    top_k: int
    routed_layers: tuple[int, ...]
    shared_layers: tuple[int, ...]

    def write(self, package: Path) -> None:
        """Write `format.json` into the plugin's package directory."""
        (package / FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read(package: Path) -> Settings:
    """Settings from the plugin's package directory. Raises `SettingsError` naming the file."""
    path = package / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Settings(
            int(found["bits"]),
            int(found["group_size"]),
            int(found["scale_divisor"]),
            int(found["top_k"]),
            tuple(found["routed_layers"]),
            tuple(found["shared_layers"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingsError(f"{path}: cannot be used ({error!r}); build the engine again") from None
