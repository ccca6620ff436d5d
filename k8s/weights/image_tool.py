"""Builds and pushes container images with the tool that a machine has."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...core.errors import BadInputError, CheckFailedError, UsageError

_BUILD: Final = {
    # Files get the same times everywhere, so that the same weights are the same layer everywhere.
    "buildah": ("build", "--layers", "--timestamp", "0"),
    "podman": ("build", "--layers", "--timestamp", "0"),
    "docker": ("build",),
}

TOOLS: Final = tuple(_BUILD)
"""The known tools, in the order in which they are looked for."""


@dataclass(frozen=True, slots=True)
class ImageTool:
    """One of `TOOLS`, found on this machine."""

    name: str
    program: str

    @classmethod
    def find(cls, name: str | None = None) -> ImageTool:
        """The tool of that name, or the first that is here.

        Raises `UsageError` for an unknown name, `BadInputError` where there is none.
        """
        if name is not None and name not in TOOLS:
            raise UsageError(f"unknown --tool {name!r}; known are {', '.join(TOOLS)}")
        for known in (name,) if name else TOOLS:
            if program := shutil.which(known):
                return cls(known, program)
        raise BadInputError(
            f"{name or ', '.join(TOOLS)}: not on PATH; building images needs buildah, podman or "
            "docker"
        )

    def build(self, image: str, context: Path, containerfile: Path) -> None:
        """Build `image` from the files in `context`; the tool's output goes to standard error.

        Raises `CheckFailedError` where the tool fails.
        """
        self._run(*_BUILD[self.name], "--tag", image, "--file", str(containerfile), str(context))

    def push(self, image: str) -> None:
        """Push `image` to the registry in its name. Raises as `build`."""
        self._run("push", image)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self.program, *arguments], stdout=2, check=False)
        if done.returncode:
            raise CheckFailedError(
                f"{self.name} {arguments[0]} failed with exit code {done.returncode}; its messages "
                "are above"
            )
