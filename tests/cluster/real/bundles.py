"""Bundles of the embedded model, as a user builds them."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DEFAULTS = ("--gpu=h100", "--quant=fp8")
NAME = "tiny-h100-fp8"
DEVELOPMENT = f"{NAME}-dev"
"""The name of everything in the overlay `dev`."""


class Bundles:
    """Bundles that have the same name, so that one replaces another in a cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._built: dict[tuple[str, ...], Path] = {}

    def build(self, *options: str) -> Path:
        """The bundle with these options of `nemo-deploy build`. Not to be changed."""
        if options not in self._built:
            out = self.folder / f"build-{len(self._built)}" / NAME
            if self._built:  # what is the same is not made again
                shutil.copytree(next(iter(self._built.values())), out)
            self._built[options] = out
            done = subprocess.run(
                [
                    sys.executable, "-m", "nemotron_deploy", "build", "--checkpoint=tiny",
                    f"--out={out}", *DEFAULTS, *options,
                ],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
        return self._built[options]

    def copy(self, bundle: Path) -> Path:
        """A copy that a test may change."""
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        return Path(shutil.copytree(bundle, folder / NAME))
