"""How to quantize a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.files import sha256
from ..model.catalog import CALIBRATION_TEXT
from ..model.recipe import Recipe
from .layouts import DEFAULT, Layout


@dataclass(frozen=True, slots=True)
class Options:
    """How to quantize. `smooth` folds activation-aware scales into INT4 experts; with `heldout`, a
    text file, the result is compared with its source whatever its size. `low_disk` deletes each
    fetched shard once its output is on the disk. With `taken_over`, the source is quantized so
    already, and nothing is done to it."""

    recipe: Recipe
    layout: Layout = DEFAULT
    calibration: Path | None = None
    smooth: bool = False
    device: str = "auto"
    heldout: Path | None = None
    low_disk: bool = False
    taken_over: bool = False

    @property
    def calibrates(self) -> bool:
        return not self.taken_over and (self.recipe.calibrates or self.smooth)

    def identity(self) -> dict[str, Any]:
        """All of them that the result depends on."""
        return {
            "recipe": self.recipe.identity(),
            "layout": self.layout.key,
            "calibration": sha256(self.calibration or CALIBRATION_TEXT)
            if self.calibrates
            else None,
            "smooth": self.smooth,
            **({"taken_over": True} if self.taken_over else {}),
        }
